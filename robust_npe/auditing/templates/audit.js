// One slider for each observation shows the pictures of one radius; without it, all of them are shown.
document.documentElement.classList.add("js");
for (const group of document.querySelectorAll(".stages")) {
  const slider = group.querySelector("input");
  const output = group.querySelector("output");
  const stages = [...group.querySelectorAll(".stage")];
  const show = () => {
    stages.forEach((stage, i) => { stage.hidden = i !== Number(slider.value); });
    output.textContent = stages[slider.value].dataset.title;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  slider.addEventListener("input", show);
  group.querySelector(".slider").hidden = false;
  show();
}
