"use strict";
// Tables: a click on a heading sorts by that column, another one turns it around.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, "en", { numeric: true });
  };
  headings.forEach((heading, column) => {
    if (!heading.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const falls = heading.ariaSort === "ascending";
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.ariaSort = falls ? "descending" : "ascending";
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => compare(key(a, column), key(b, column)));
      body.append(...(falls ? rows.reverse() : rows));
    });
  });
}
// Figures: a click shows one large, a picture at the greatest whole multiple that fits.
const viewer = document.getElementById("viewer");
const enlarge = (figure) => {
  const shown = (figure.querySelector("img") ?? figure.querySelector("svg")).cloneNode(true);
  if (shown instanceof HTMLImageElement) {
    const { naturalWidth: width, naturalHeight: height } = figure.querySelector("img");
    const room = Math.min((innerWidth - 32) / width, (innerHeight - 32) / height);
    const scale = Math.max(1, Math.floor(room));
    shown.style.width = `${width * scale}px`;
    shown.style.height = `${height * scale}px`;
  }
  viewer.replaceChildren(shown);
  viewer.showModal();
};
for (const zoom of document.querySelectorAll(".zoom")) {
  zoom.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    enlarge(zoom);
  });
  zoom.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge(zoom);
  });
}
viewer.addEventListener("click", () => viewer.close());
// On paper every fold is open.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
