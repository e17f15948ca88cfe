// Label pictures: read back into class numbers, and painted over their image in any colours.

const codeOf = ([red, green, blue]) => (red << 16) | (green << 8) | blue;
const known = new Map([
  [codeOf(classes.none), NO_CLASS],
  ...classes.standard.map((colour, i) => [codeOf(colour), i]),
]);

// Browsers that guard against fingerprinting alter pixels that are read back a little.
const nearestClass = (red, green, blue) => {
  let best = NO_CLASS;
  let least = Infinity;
  for (const [code, id] of known) {
    const away = Math.abs((code >> 16) - red) + Math.abs(((code >> 8) & 255) - green)
      + Math.abs((code & 255) - blue);
    if (away < least) [least, best] = [away, id];
  }
  return best;
};

const makeCanvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

const decodeLabels = async (image) => {
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  const context = makeCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const ids = new Uint8Array(width * height);
  for (let i = 0, place = 0; i < ids.length; i += 1, place += 4) {
    const [red, green, blue] = [data[place], data[place + 1], data[place + 2]];
    ids[i] = known.get((red << 16) | (green << 8) | blue) ?? nearestClass(red, green, blue);
  }
  return { ids, width, height };
};
// Image element → promise of { ids, width, height }; each is read once, before it is repainted.
const labels = new Map();
const readLabels = (image) => {
  if (!labels.has(image)) labels.set(image, decodeLabels(image));
  return labels.get(image);
};

// Runs a painter that waits for pictures; one that was overtaken by a later call stops.
const latest = (paint) => {
  let turn = 0;
  return () => {
    turn += 1;
    const mine = turn;
    return paint(() => mine !== turn);
  };
};

const at = ({ ids, width, height }, x, y) =>
  ids[Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width))];

// The class at the centre of every cell of another grid.
const onGrid = (picture, width, height) => {
  const ids = new Uint8Array(width * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      ids[y * width + x] = at(picture, (x + 0.5) / width, (y + 0.5) / height);
    }
  }
  return ids;
};

const layerOf = ({ ids, width, height }, colourOf) => {
  const canvas = makeCanvas(width, height);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0, place = 0; i < ids.length; i += 1, place += 4) {
    const colour = colourOf(ids[i], i);
    if (!colour) continue;
    [pixels.data[place], pixels.data[place + 1], pixels.data[place + 2]] = colour;
    pixels.data[place + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
};

const classColour = (id) =>
  (id === NO_CLASS || (colours.only !== null && id !== colours.only) ? null : colours.palette[id]);

// Draws an image with a layer of labels over it; labels keep hard edges, the image does not. The
// canvas is enlarged towards `least` pixels of width.
const compose = (canvas, image, layer, { strength, dim, least }) => {
  const size = image ?? layer;
  const [width, height] = [size.naturalWidth ?? size.width, size.naturalHeight ?? size.height];
  const scale = Math.max(1, Math.round(least / width));
  if (canvas.width !== width * scale || canvas.height !== height * scale) {
    Object.assign(canvas, { width: width * scale, height: height * scale });
  }
  const context = canvas.getContext("2d");
  context.globalAlpha = 1;
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (image) {
    context.imageSmoothingEnabled = true;
    context.globalAlpha = 1 - dim;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
  }
  if (layer) {
    context.imageSmoothingEnabled = false;
    context.globalAlpha = image ? strength : 1;
    context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  }
};

// The sheet of all pictures is where the other parts take theirs from.
const sheet = new Map();
for (const strip of document.querySelectorAll(".strip[data-sample]")) {
  const looks = new Map();
  for (const image of strip.querySelectorAll("img[data-look]")) looks.set(image.dataset.look, image);
  sheet.set(strip.dataset.sample, looks);
}
for (const thumbnail of document.querySelectorAll("img[data-thumbnail]")) {
  const looks = sheet.get(thumbnail.dataset.thumbnail);
  const image = looks?.get("image") ?? looks?.values().next().value;
  if (image) thumbnail.src = image.src;
}
repaints.push(latest(async (overtaken) => {
  for (const image of document.querySelectorAll(".strip img[data-labels]")) {
    if ((image.dataset.painted ?? "standard") === colours.name) continue;
    const picture = await readLabels(image);
    if (overtaken()) return;
    image.dataset.painted = colours.name;
    const own = (id) => (id === NO_CLASS ? classes.none : colours.palette[id]);
    image.src = layerOf(picture, own).toDataURL();
  }
}));

const viewer = document.getElementById("viewer");
if (viewer) {
  const frame = viewer.querySelector(".frame");
  const slider = viewer.querySelector(".slider");
  const reading = document.getElementById("reading");
  const strength = document.getElementById("strength");
  const mistakes = document.getElementById("mistakes");
  const hint = reading.textContent;
  const sides = ["left", "right"].map((side) => ({
    side,
    canvas: viewer.querySelector(`canvas.${side}`),
    tag: viewer.querySelector(`.tag.${side}`),
  }));
  const nameOf = (key) =>
    viewer.querySelector(`input[name="left"][value="${CSS.escape(key)}"]`).getAttribute("aria-label")
      .replace(/ on the left$/, "");

  const paint = latest(async (overtaken) => {
    const looks = sheet.get(choose("sample"));
    const image = looks.get("image");
    const truth = looks.get("truth")?.dataset.labels === undefined ? null : looks.get("truth");
    for (const { side, canvas, tag } of sides) {
      const key = choose(side);
      const look = looks.get(key);
      const wrongOnly = Boolean(mistakes?.checked && truth && look && look !== truth);
      tag.textContent = nameOf(key);
      canvas.setAttribute("aria-label", `${nameOf(key)}${look ? "" : ": no picture"}`);
      let layer = null;
      if (look?.dataset.labels !== undefined) {
        const picture = await readLabels(look);
        const right = wrongOnly ? (await readLabels(truth)).ids : null;
        layer = layerOf(picture, (id, i) =>
          (right && (id === right[i] || right[i] === NO_CLASS) ? null : classColour(id)));
      }
      if (overtaken()) return;
      const dim = layer && (wrongOnly || colours.only !== null) ? 0.5 : 0;
      const options = { strength: Number(strength.value) / 100, dim, least: 1200 };
      compose(canvas, layer ? image : look ?? image, layer, options);
    }
    const shown = sides[0].canvas;
    frame.style.aspectRatio = `${shown.width} / ${shown.height}`;
    for (const cell of viewer.querySelectorAll("[data-right-of]")) {
      cell.textContent = looks.get(cell.dataset.rightOf)?.dataset.right ?? "";
    }
  });

  const divide = () => frame.style.setProperty("--at", `${slider.value}%`);
  const readAt = async (event) => {
    const box = frame.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    const looks = sheet.get(choose("sample"));
    const said = [];
    for (const key of new Set([choose("left"), choose("right"), "truth"])) {
      const look = looks.get(key);
      if (look?.dataset.labels === undefined) continue;
      const id = at(await readLabels(look), x, y);
      said.push(`${nameOf(key)}: ${id === NO_CLASS ? "no class" : classes.names[id]}`);
    }
    reading.textContent = said.join("  ·  ") || hint;
  };
  const drag = (event) => {
    const box = frame.getBoundingClientRect();
    slider.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
    divide();
  };
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    slider.focus({ preventScroll: true });
    drag(event);
  });
  // Else the press would take the focus, and with it the arrow keys, from the slider again.
  frame.addEventListener("mousedown", (event) => event.preventDefault());
  frame.addEventListener("pointermove", (event) => {
    if (frame.hasPointerCapture(event.pointerId)) drag(event);
    readAt(event);
  });
  frame.addEventListener("pointerleave", () => { reading.textContent = hint; });

  slider.addEventListener("input", divide);
  const paintSoon = () => repaint([paint]);
  strength.addEventListener("input", paintSoon);
  mistakes?.addEventListener("change", paintSoon);
  for (const group of ["sample", "left", "right"]) whenChosen(group, paintSoon);
  repaints.push(paint);
  viewer.hidden = false;
  divide();
}

const labelling = document.getElementById("labelling");
if (labelling) {
  const stages = JSON.parse(document.getElementById("pseudo-label-pictures").textContent);
  const panels = [...labelling.querySelectorAll("figure[data-kind]")];
  const percent = (share) => `${(100 * share).toFixed(1)}\u202f%`;
  const images = new Map();
  const imageOf = (uri) => {
    if (!images.has(uri)) images.set(uri, Object.assign(new Image(), { src: uri }));
    return images.get(uri);
  };

  const paint = latest(async (overtaken) => {
    const sample = choose("labelled-sample");
    const stage = stages[Number(choose("labelled-stage"))];
    const looks = sheet.get(sample);
    const truth = looks?.get("truth");
    const judged = choose("labelled-view") === "1" && truth;
    labelling.querySelector(".verdicts").hidden = !judged;
    labelling.querySelector(".classes").hidden = Boolean(judged);
    for (const panel of panels) {
      const drawn = stage.kinds[panel.dataset.kind]?.[sample];
      const [canvas, numbers] = [panel.querySelector("canvas"), panel.querySelector("span")];
      panel.hidden = !drawn;
      if (!drawn) continue;
      const picture = await readLabels(imageOf(drawn.uri));
      const right = judged ? onGrid(await readLabels(truth), picture.width, picture.height) : null;
      if (overtaken()) return;
      const layer = layerOf(picture, (id, i) => {
        if (!right) return classColour(id);
        return id === NO_CLASS || right[i] === NO_CLASS ? null : id === right[i] ? RIGHT : WRONG;
      });
      compose(canvas, looks?.get("image"), layer, { strength: 0.75, dim: 0.35, least: 640 });
      numbers.textContent = drawn.precision === null
        ? `coverage here ${percent(drawn.coverage)}`
        : `here: precision ${percent(drawn.precision)}, coverage ${percent(drawn.coverage)}`;
      canvas.setAttribute("aria-label", `Pseudo-labels ${panel.dataset.name}, ${stage.name}, ${numbers.textContent}`);
    }
  });
  for (const group of ["labelled-sample", "labelled-stage", "labelled-view"]) {
    whenChosen(group, () => repaint([paint]));
  }
  repaints.push(paint);
  labelling.hidden = false;
}
