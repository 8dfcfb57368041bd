"use strict";
// Anchors do nothing in a sandboxed frame; scrolling to an element works everywhere.
for (const button of document.querySelectorAll("button[data-to]")) {
  button.addEventListener("click", () => {
    const target = document.getElementById(button.dataset.to);
    if (target) target.scrollIntoView({ behavior: "smooth", block: "start" });
  });
}
const graph = document.getElementById("module-graph");
if (graph) {
  const mark = graph.querySelector(".origin");
  if (mark && graph.scrollWidth > graph.clientWidth) {
    const box = mark.getBoundingClientRect();
    const frame = graph.getBoundingClientRect();
    graph.scrollLeft += box.left + box.width / 2 - frame.left - frame.width / 2;
  }
}
