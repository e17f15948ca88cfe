// Values under the pointer: the legend gives each line's value at the nearest logged step.

for (const chart of document.querySelectorAll(".chart")) {
  const source = chart.querySelector("script");
  if (!source) continue;
  const data = JSON.parse(source.textContent);
  const [low, high] = data.extent;
  const area = chart.querySelector(".area");
  const cursor = chart.querySelector(".cursor");
  const output = chart.querySelector("output");
  const values = chart.querySelectorAll(".value");

  const nearest = (line, x) =>
    line.x.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(line.x[best] - x) ? i : best), 0);

  // A line may begin later or end sooner than the others: it has no value there.
  const slack = (high - low) / 50;
  const reaches = (line, x) => x >= line.x[0] - slack && x <= line.x.at(-1) + slack;

  const clear = () => {
    cursor.hidden = true;
    output.textContent = "";
    values.forEach((value, i) => { value.textContent = data.lines[i].y.at(-1); });
  };

  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const x = low + ((event.clientX - box.left) / box.width) * (high - low);
    const within = data.lines
      .map((line) => ({ line, i: nearest(line, x) }))
      .sort((a, b) => Math.abs(a.line.x[a.i] - x) - Math.abs(b.line.x[b.i] - x));
    const { line, i } = within[0];
    cursor.hidden = false;
    cursor.style.left = `${((line.x[i] - low) / (high - low)) * 100}%`;
    output.textContent = values.length
      ? `${data.label} ${Math.round(line.x[i])}${data.unit && `\u202f${data.unit}`}`
      : `${line.name}, ${data.label} ${Math.round(line.x[i])}: ${line.y[i].toFixed(1)}`;
    values.forEach((value, k) => {
      const other = data.lines[k];
      value.textContent = reaches(other, line.x[i]) ? other.y[nearest(other, line.x[i])] : "–";
    });
  });
  area.addEventListener("pointerleave", clear);
}
