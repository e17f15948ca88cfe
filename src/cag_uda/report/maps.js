// Maps of features: the sampled pixels of each domain in a plane, and the anchors on it.

const maps = document.getElementById("maps");
if (maps) {
  const { extent, maps: all, names } = JSON.parse(document.getElementById("feature-maps").textContent);
  const [left, right, bottom, top] = extent;
  const canvases = [...maps.querySelectorAll("canvas")];

  const drawPoints = (context, [xs, ys, ids], place, ink) => {
    context.strokeStyle = ink;
    context.lineWidth = 0.5;
    for (let i = 0; i < xs.length; i += 1) {
      const set = colours.only === null || colours.only === ids[i];
      const [x, y] = place(xs[i], ys[i]);
      context.globalAlpha = set ? 0.75 : 0.06;
      context.fillStyle = `rgb(${colours.palette[ids[i]].join(" ")})`;
      context.beginPath();
      context.arc(x, y, set && colours.only !== null ? 3 : 2.3, 0, 2 * Math.PI);
      context.fill();
      // A dark class on a dark page, or a pale one on a pale page, is seen by its outline.
      context.globalAlpha *= 0.45;
      context.stroke();
    }
  };

  const drawAnchors = (context, anchors, place, ink, paper, width) => {
    const taken = [];
    context.globalAlpha = 1;
    context.font = `600 11px ${getComputedStyle(document.body).fontFamily}`;
    anchors.forEach((anchor, id) => {
      if (!anchor || (colours.only !== null && colours.only !== id)) return;
      const [x, y] = place(...anchor);
      for (const [style, line] of [[paper, 5], [`rgb(${colours.palette[id].join(" ")})`, 3], [ink, 1]]) {
        context.strokeStyle = style;
        context.lineWidth = line;
        context.beginPath();
        context.arc(x, y, line === 1 ? 7.5 : 6, 0, 2 * Math.PI);
        context.stroke();
      }
    });
    anchors.forEach((anchor, id) => {
      if (!anchor || (colours.only !== null && colours.only !== id)) return;
      const [x, y] = place(...anchor);
      const wide = context.measureText(classes.names[id]).width;
      // Beside the ring, on the side where there is room; left out where it would cover another.
      const from = x + 12 + wide > width ? x - 12 - wide : x + 12;
      const box = [from, y - 7, from + wide, y + 7];
      if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) return;
      taken.push(box);
      context.strokeStyle = paper;
      context.lineWidth = 3;
      context.lineJoin = "round";
      context.strokeText(classes.names[id], from, y + 4);
      context.fillStyle = ink;
      context.fillText(classes.names[id], from, y + 4);
    });
  };

  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const [ink, paper] = ["--ink", "--card"].map((name) => style.getPropertyValue(name).trim());
    for (const canvas of canvases) {
      const { place: row, domain } = canvas.dataset;
      const index = Number(choose(`map-${row}`) ?? 0);
      const map = all[index];
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      const scale = window.devicePixelRatio || 1;
      Object.assign(canvas, { width: width * scale, height: height * scale });
      const context = canvas.getContext("2d");
      context.scale(scale, scale);
      // One unit is as long upwards as sideways.
      const unit = Math.min(width / (right - left), height / (top - bottom));
      const place = (x, y) => [
        width / 2 + unit * (x - (left + right) / 2),
        height / 2 - unit * (y - (bottom + top) / 2),
      ];
      drawPoints(context, map[domain], place, ink);
      drawAnchors(context, map.anchors, place, ink, paper, width);
      canvas.previousElementSibling.textContent = `${names[index]}, ${domain}`;
      canvas.setAttribute("aria-label", `${domain} pixels of ${names[index]} by class, with the anchors`);
    }
  };
  for (const group of ["map-above", "map-below"]) whenChosen(group, () => repaint([paint]));
  repaints.push(paint);
  maps.hidden = false;
  new ResizeObserver(() => repaint([paint])).observe(maps);
}

repaint();
