// Small line and area charts as SVG: five minutes wide, one sample a second. Colours come from the style sheet.

import { s, setText } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 84;
const SPAN = 300;

// The next of 1, 2, 5 times a power of ten: an axis that people can read.
function nice(value, least) {
  const wanted = Math.max(value, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  const factor = [1, 2, 5, 10].find((each) => each * power >= wanted * 0.999);
  return factor * power;
}

const x = (sample, newest) => WIDTH - ((newest - sample.at) * WIDTH) / SPAN;
const y = (value, top) => HEIGHT - (Math.min(value, top) / top) * (HEIGHT - 4);

// A line with gaps where there is no value.
function line(samples, newest, top, value) {
  let path = "";
  let drawing = false;
  for (const sample of samples) {
    const found = value(sample);
    if (found === null || found === undefined) {
      drawing = false;
      continue;
    }
    const at = `${x(sample, newest).toFixed(1)} ${y(found, top).toFixed(1)}`;
    path += drawing ? `L${at}` : `M${at}h0.01L${at}`;
    drawing = true;
  }
  return path;
}

function area(samples, newest, top, from, to) {
  if (!samples.length) return "";
  const upper = samples.map((each) => `${x(each, newest).toFixed(1)} ${y(to(each), top).toFixed(1)}`);
  const lower = samples.map((each) => `${x(each, newest).toFixed(1)} ${y(from(each), top).toFixed(1)}`).reverse();
  return `M${upper.join("L")}L${lower.join("L")}Z`;
}

// `series`: [{name, class, value(sample), stacked}]; stacked ones are areas upon each other, the others lines.
export class Chart {
  constructor(figure, { series, format, least }) {
    this.series = series;
    this.format = format;
    this.least = least;
    this.top = figure.querySelector(".chart-top");
    this.paths = series.map((each) => s("path", { class: `${each.stacked ? "area" : "line"} ${each.class}` }));
    const grid = [0.25, 0.5, 0.75].map((at) => s("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * at, y2: HEIGHT * at }));
    this.svg = s(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "no data yet" },
      ...grid,
      ...this.paths,
    );
    figure.querySelector(".chart-plot").append(this.svg);
    this.figure = figure;
  }

  draw(samples) {
    if (!samples.length) return;
    const newest = samples[samples.length - 1].at;
    const stacked = this.series.filter((each) => each.stacked);
    const sum = (sample, upTo) => stacked.slice(0, upTo).reduce((total, each) => total + each.value(sample), 0);
    const highest = Math.max(
      ...samples.map((sample) => sum(sample, stacked.length)),
      ...samples.flatMap((sample) => this.series.filter((each) => !each.stacked).map((each) => each.value(sample) ?? 0)),
    );
    const top = nice(highest, this.least);
    let level = 0;
    this.series.forEach((each, index) => {
      const at = level;
      if (each.stacked) level += 1;
      const path = each.stacked
        ? area(samples, newest, top, (sample) => sum(sample, at), (sample) => sum(sample, at + 1))
        : line(samples, newest, top, each.value);
      this.paths[index].setAttribute("d", path);
    });
    setText(this.top, this.format(top));
    const latest = samples[samples.length - 1];
    const said = this.series.map((each) => `${each.name} ${this.format(each.value(latest))}`).join(", ");
    this.svg.setAttribute("aria-label", `Last five minutes; now ${said}; scale to ${this.format(top)}`);
    this.series.forEach((each) => {
      const value = this.figure.querySelector(`[data-series="${each.name}"]`);
      if (value) setText(value, this.format(each.value(latest)));
    });
  }
}
