// Two conveniences; without them the page still shows everything.
"use strict";

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
      ? `${data.label} ${Math.round(line.x[i])}`
      : `${line.name}, ${data.label} ${Math.round(line.x[i])}: ${line.y[i].toFixed(1)}`;
    values.forEach((value, k) => {
      const other = data.lines[k];
      value.textContent = other.y[nearest(other, line.x[i])];
    });
  });
  area.addEventListener("pointerleave", clear);
}

// A picture enlarged, with its neighbours one key away in the same place.
const viewer = document.getElementById("viewer");
let row = [];
let shown = 0;

const show = (index) => {
  shown = (index + row.length) % row.length;
  const thumbnail = row[shown].querySelector("img");
  const picture = viewer.querySelector("img");
  picture.src = thumbnail.src;
  picture.alt = thumbnail.alt;
  picture.classList.toggle("labels", row[shown].classList.contains("labels"));
  const caption = row[shown].parentElement.querySelector("figcaption").textContent.trim();
  viewer.querySelector("span").textContent = `${caption} (${shown + 1} of ${row.length})`;
};

for (const strip of document.querySelectorAll(".strip")) {
  const pictures = [...strip.querySelectorAll(".picture")];
  pictures.forEach((picture, index) => picture.addEventListener("click", () => {
    row = pictures;
    show(index);
    viewer.showModal();
  }));
}

viewer.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.move) show(shown + Number(button.dataset.move));
  else if (button || event.target === viewer) viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (move) {
    event.preventDefault();
    show(shown + move);
  }
});
