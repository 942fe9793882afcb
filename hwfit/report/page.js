'use strict';
// Draws every figure, saves them as pictures, and keeps one selection and one filter for all sections.
// How traces and annotations tell their model: hwfit/report/figures.py.

const models = JSON.parse(document.getElementById('models').textContent);
const hidden = new Set();
let selected = null;
const shown = name => !hidden.has(name);
const order = () => models.map(model => model.name).filter(shown);

const plots = [...document.querySelectorAll('.plot')].map(place => {
  const source = place.querySelector('script');
  source.remove();
  return {place, figure: place.closest('figure'), near: false, dirty: true, ...JSON.parse(source.textContent)};
});

// ---- what a figure looks like under the present filter and selection

const owner = trace => trace.meta && trace.meta.row;
const role = trace => trace.meta && trace.meta.role;

function filtered(trace) {
  if (owner(trace)) return shown(owner(trace)) ? [trace] : [];
  if (!trace.customdata) return [trace];
  const part = {...trace};
  for (const key of ['x', 'y', 'customdata', 'hovertext'])
    if (trace[key]) part[key] = trace[key].filter((_, i) => shown(trace.customdata[i]));
  return [part];
}

function emphasised(trace) {
  if (selected === null) return [trace];
  if (owner(trace) && owner(trace) !== selected) return [{...trace, opacity: 0.35}];
  if (role(trace) === 'curve') return [{...trace, line: {...trace.line, width: 4}}];
  if (role(trace) === 'mark') {
    const frame = {symbol: 'square-open', size: trace.marker.size + 13, color: '#111', line: {width: 2.2}};
    return [trace, {x: trace.x, y: trace.y, mode: 'markers', marker: frame, hoverinfo: 'skip', showlegend: false}];
  }
  if (trace.type === 'bar' && trace.customdata) {
    const mine = trace.customdata.map(name => name === selected);
    const line = {color: mine.map(own => own ? '#111' : '#777'), width: mine.map(own => own ? 2.2 : 0.6)};
    return [{...trace, marker: {...trace.marker, opacity: mine.map(own => own ? 1 : 0.45), line}}];
  }
  return [trace];
}

function noted(note) {
  return note.name && note.name === selected ? {...note, bgcolor: '#111', font: {...note.font, color: '#fff'}} : note;
}

function dressed({data, layout}, width) {
  const meta = layout.meta || {};
  const notes = (meta[width < 700 && meta.narrow ? 'narrow' : 'wide'] || []).filter(note => !note.name || shown(note.name));
  const change = {width, annotations: notes.map(noted)};
  if (meta.each) change.height = meta.around + meta.each * order().length;
  const cell = layout.xaxis.range && (width - 50) / (layout.xaxis.range[1] - layout.xaxis.range[0]);
  const sized = trace => role(trace) !== 'digits' ? [trace]
    : cell < 6 ? [] : [{...trace, textfont: {...trace.textfont, size: Math.min(10, 0.82 * cell)}}];
  return {data: data.flatMap(filtered).flatMap(emphasised).flatMap(sized), layout: {...layout, ...change}};
}

// ---- drawing, only what is near the screen

function draw(plot, width = plot.place.clientWidth) {
  if (!width) return;
  const {data, layout} = dressed(plot, width);
  layout.dragmode = width < 500 ? false : 'zoom';
  plot.place.style.minHeight = `${layout.height}px`;
  Plotly.react(plot.place, data, layout, {displayModeBar: false});
  plot.dirty = false;
  if (plot.wired) return;
  plot.wired = true;
  plot.place.on('plotly_click', event => {
    const point = event.points[0], trace = plot.data.find(t => t.name === point.data.name && t.customdata);
    const name = owner(point.data) || (trace && point.customdata) || plot.figure.dataset.row;
    if (name && name !== selected) select(name); // no toggling: a tap comes as a touch and again as a mouse
  });
}

const drawNear = () => plots.forEach(plot => { if (plot.near && plot.dirty) draw(plot); });
function redraw(some = plots) {
  some.forEach(plot => { plot.dirty = true; });
  drawNear();
}
const near = new IntersectionObserver(entries => {
  for (const entry of entries) plots.find(plot => plot.place === entry.target).near = entry.isIntersecting;
  drawNear();
}, {rootMargin: '500px 0px'});
plots.forEach(plot => near.observe(plot.place));

let waiting;
addEventListener('resize', () => { clearTimeout(waiting); waiting = setTimeout(() => redraw(), 150); });
addEventListener('beforeprint', () => {
  plots.forEach(plot => draw(plot, plot.figure.parentElement.matches('.halves, .maps') ? 330 : 700));
});
addEventListener('afterprint', () => redraw());

// ---- selection

const strip = document.querySelector('.strip');
const concerns = plot => plot.data.some(trace => owner(trace) || trace.customdata);

function mark() {
  for (const element of document.querySelectorAll('[data-row]')) {
    element.hidden = !shown(element.dataset.row);
    element.classList.toggle('selected', element.dataset.row === selected);
  }
  for (const button of document.querySelectorAll('[data-select]'))
    button.setAttribute('aria-pressed', String(button.dataset.select === selected));
  strip.hidden = selected === null;
  const line = strip.querySelector('p');
  line.textContent = '';
  if (selected === null) return;
  const name = document.createElement('b');
  name.textContent = selected;
  line.append(name, ' ', models.find(model => model.name === selected).words);
}

function select(name) {
  selected = name;
  mark();
  redraw(plots.filter(concerns));
}

function step(by, names = order()) {
  const at = names.indexOf(selected);
  if (names.length) select(names[at < 0 ? (by > 0 ? 0 : names.length - 1) : (at + by + names.length) % names.length]);
}

// The models of a plot from left to right, or from top to bottom.
function across(plot) {
  const marks = plot.data.filter(trace => role(trace) === 'mark').sort((a, b) => a.x[0] - b.x[0]);
  const bars = plot.data.find(trace => trace.type === 'bar' && trace.customdata);
  return (marks.length ? marks.map(owner) : bars ? bars.customdata : []).filter(shown);
}

for (const plot of plots.filter(plot => across(plot).length)) {
  plot.place.tabIndex = 0;
  plot.place.addEventListener('keydown', event => {
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!by) return;
    event.preventDefault();
    step(by, across(plot));
  });
}
addEventListener('keydown', event => { if (event.key === 'Escape' && selected !== null) select(null); });

// ---- filter

const form = document.getElementById('filter');
function filter() {
  hidden.clear();
  const off = [...form.querySelectorAll('input:not(:checked)')];
  for (const model of models)
    if (off.some(box => model[box.name] === box.value)) hidden.add(model.name);
  if (selected !== null && !shown(selected)) selected = null;
  document.getElementById('count').textContent = `${order().length} of ${models.length} models shown`;
  mark();
  redraw();
}
if (form) {
  form.addEventListener('change', filter);
  form.addEventListener('submit', event => event.preventDefault());
  if (form.querySelector('input:not(:checked)')) filter(); // what the browser restored
}

// ---- pictures

function save(plot, format) {
  const half = plot.figure.parentElement.matches('.halves, .maps');
  const width = half ? 720 : 1000;
  const {data, layout} = dressed(plot, width);
  const title = {text: `${plot.place.getAttribute('aria-label')}<br><sub>${document.title}</sub>`, x: 0, xref: 'paper', y: 1, yref: 'container', yanchor: 'top'};
  const lines = 2 + Math.floor(data.filter(trace => trace.showlegend !== false && trace.name).length / (half ? 4 : 6));
  const margin = {...layout.margin, t: layout.margin.t + 58, b: layout.margin.b + 8 + 22 * lines};
  const legend = {orientation: 'h', x: 0, y: 0, yref: 'container', yanchor: 'bottom', itemwidth: 30};
  const height = layout.height + 66 + 22 * lines;
  const dress = {title: {...title, pad: {t: 24}, font: {size: 15}}, showlegend: true, legend, margin, height};
  return Plotly.downloadImage(
    {data, layout: {...layout, ...dress}},
    {format, width, height, scale: format === 'png' ? 2 : 1, filename: plot.place.id},
  );
}

document.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  const {save: format, select: name, step: by} = button.dataset;
  if (format) save(plots.find(plot => plot.figure === button.closest('figure')), format);
  if (name !== undefined) select(name === selected ? null : name);
  if (by) step(Number(by));
  if ('clear' in button.dataset) select(null);
});
