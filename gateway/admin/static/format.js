// Numbers and times as people read them.

const NONE = "–";

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  return value < 100 ? `${Number(value.toPrecision(3))} s` : `${Math.round(value)} s`;
}

export const milliseconds = (value) => (value === null || value === undefined ? NONE : seconds(value / 1000));

export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

export const percent = (value) => (value === null || value === undefined ? NONE : `${Math.round(value * 100)}%`);

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${value < 10 && at ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

export function duration(value) {
  const days = Math.floor(value / 86400);
  const hours = Math.floor((value % 86400) / 3600);
  const minutes = Math.floor((value % 3600) / 60);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  const rest = Math.floor(value % 60);
  if (minutes) return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
  return `${rest} s`;
}

export function clock(timestamp) {
  const date = new Date(timestamp);
  return Number.isNaN(date.getTime()) ? NONE : date.toLocaleTimeString("en-GB");
}

export const words = (name) => name.replaceAll("_", " ");
