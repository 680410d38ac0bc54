// Shows what api/status says, and asks again every few seconds. Everything from outside is set as text, never as markup.
"use strict";

const MOOD = {
  seen: "busy", inferred: "busy", signed: "busy", posting: "busy", posted: "busy", finalizing: "busy",
  disputed: "bad", finalized: "good", dropped: "",
};
const byId = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Wei in decimal to ether with at most six digits after the point, exactly.
function ether(wei) {
  const whole = BigInt(wei);
  const unit = 10n ** 18n;
  const rest = (whole % unit).toString().padStart(18, "0").slice(0, 6).replace(/0+$/, "");
  if (whole > 0n && whole / unit === 0n && rest === "") return "< 0.000001";
  return (whole / unit).toString() + (rest ? "." + rest : "");
}

function gwei(wei) {
  return (Number(BigInt(wei)) / 1e9).toPrecision(3) + " gwei";
}

function duration(seconds) {
  const s = Math.round(seconds);
  if (s < 90) return s + " s";
  if (s < 5400) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

const short = (hex) => hex.slice(0, 8) + ".." + hex.slice(-4);

function figure(value, label, share) {
  const box = element("div", null, "figure");
  box.append(element("b", value), element("span", label));
  if (share !== undefined) {
    const bar = element("div", null, "bar");
    const filled = element("i");
    filled.style.setProperty("width", Math.round(100 * Math.min(1, Math.max(0, share))) + "%");
    bar.append(filled);
    box.append(bar);
  }
  return box;
}

// What will happen to a request next, or why nothing will.
function when(request, now) {
  if (request.reason) return request.reason;
  if (request.step === "finalized") return request.inferred_in === null ? "" : request.inferred_in.toFixed(1) + " ms on the device";
  if (request.step === "disputed") return "in a dispute";
  if (request.final_at !== null) return request.final_at > now ? "final in " + duration(request.final_at - now) : "final any moment";
  return request.deadline > now ? "due in " + duration(request.deadline - now) : "overdue";
}

function row(cells) {
  const line = element("tr");
  for (const cell of cells) {
    const [text, className] = Array.isArray(cell) ? cell : [cell];
    line.append(element("td", text, className));
  }
  return line;
}

function show(report) {
  const { chain, money, steps } = report;
  const state = byId("state");
  const fine = report.troubles.length === 0;
  state.textContent = report.at === 0 ? "starting" : fine ? "running" : "look here";
  state.className = "pill " + (report.at === 0 ? "busy" : fine ? "good" : "warn");
  byId("where").textContent = `chain ${chain.id}, block ${chain.head}, read to ${chain.read}, base fee ${gwei(chain.base_fee)}`;

  const troubles = byId("troubles");
  troubles.hidden = fine;
  troubles.replaceChildren(...report.troubles.map((text) => element("li", text)));

  const waiting = steps.seen + steps.inferred + steps.signed + steps.posting || 0;
  const figures = [
    figure(String(waiting), "waiting for an answer"),
    figure(String(steps.posted + steps.finalizing || 0), "answered, window open"),
    figure(String(steps.disputed || 0), "disputed"),
    figure(String(steps.finalized || 0), "final"),
    figure(Math.round(100 * report.load) + " %", "device load", report.load),
  ];
  if (money) {
    const stake = BigInt(money.stake);
    const share = stake > 0n ? Number((BigInt(money.locked) * 1000n) / stake) / 1000 : 0;
    const cap = BigInt(money.cap_day);
    const spent = cap > 0n ? Number((BigInt(money.spent_day) * 1000n) / cap) / 1000 : 0;
    figures.push(
      figure(ether(money.earned), "ether earned"),
      figure(ether(money.credit), "ether not taken out"),
      figure(ether(money.stake), `ether at stake, ${ether(money.locked)} locked`, share),
      figure(ether(money.spent_day), `ether of gas in 24 h, of ${ether(money.cap_day)}`, spent),
      figure(ether(money.balance), "ether for gas"),
    );
  }
  byId("figures").replaceChildren(...figures);

  byId("steps").replaceChildren(...Object.entries(steps).filter(([, count]) => count > 0)
    .map(([step, count]) => element("span", `${count} ${step}`, "pill " + MOOD[step])));
  byId("requests").tBodies[0].replaceChildren(...report.recent.map((request) => row([
    "#" + request.id + (request.attempt > 0 ? " attempt " + (request.attempt + 1) : ""),
    [request.step, MOOD[request.step]], request.model, [ether(request.fee), "n"],
    [request.paid === null ? "" : ether(request.paid), "n"], [when(request, chain.timestamp), "why"], short(request.requester),
  ])));
  byId("workers").tBodies[0].replaceChildren(...report.workers.map((worker) => row([
    worker.name, worker.device, worker.models.join(", "), [String(worker.answered), "n"], [String(worker.claimed), "n"],
    [worker.up > 0 ? ((100 * worker.busy) / worker.up).toFixed(1) + " %" : "", "n"],
    worker.alive ? [worker.submitter ? "submitter" : "worker", "good"] : ["silent", "bad"],
  ])));
  byId("open").hidden = report.open.length === 0;
  byId("open").querySelector("tbody").replaceChildren(...report.open.map((sent) => row([
    sent.purpose, [String(sent.nonce), "n"], [gwei(sent.max_fee), "n"], short(sent.hash),
  ])));
  byId("footer").textContent = `Candor ${report.version}, oracle ${chain.oracle}` + (money ? `, operator ${money.operator}` : ", only watching")
    + `, up ${duration(report.up)}, ${Math.round(report.memory / 1048576)} MiB`;
}

async function look() {
  try {
    const answer = await fetch("api/status", { cache: "no-store" });
    if (!answer.ok) throw new Error("status " + answer.status);
    show(await answer.json());
    document.body.dataset.shown = "yes";
  } catch (error) {
    byId("state").textContent = "no answer";
    byId("state").className = "pill bad";
    console.error(error);
  }
  setTimeout(look, 3000);
}

look();
