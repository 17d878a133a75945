// Drives the pages as a moderator would, keeps pictures, and fails on serious accessibility faults (light and dark), on
// anything a page asks of another host, and on anything a page's own policy had to stop.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile, readdir, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const { ADDRESS: address, BINARY: binary, CHROMIUM: executablePath, INDEX: index, PICTURES: pictures, WORK: work } = process.env;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const faults = [];
const checked = [];

function watch(page) {
  page.on("request", (request) => {
    if (!request.url().startsWith(address) && !request.url().startsWith("file:")) {
      faults.push(`${page.url()} asks for ${request.url()}`);
    }
  });
  page.on("console", (message) => {
    // A page that is meant not to be there says so on the console.
    if (message.type() === "error" && !message.text().includes("404")) faults.push(`${page.url()}: ${message.text()}`);
  });
}

// Serious accessibility faults of a page as it stands.
async function check(page, name) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document));
  assert.ok(found.passes.length >= 10, `axe looked at next to nothing of ${name}`);
  for (const fault of found.violations.filter((one) => ["serious", "critical"].includes(one.impact))) {
    const where = fault.nodes.slice(0, 3).map((node) => node.html).join(" ");
    faults.push(`${name}: ${fault.id}: ${fault.help}: ${where}`);
  }
  checked.push(name);
}

// Pictures and faults of a page in light and dark. Scripts are off where the picture is taken; axe needs them, and a page's
// policy forbids them, so axe runs in a copy of the page without it.
async function look(url, name) {
  for (const colorScheme of ["light", "dark"]) {
    const plain = await browser.newContext({ colorScheme, javaScriptEnabled: false });
    const page = await plain.newPage();
    watch(page);
    const answer = await page.goto(url);
    assert.ok(url.startsWith("file:") || answer.status() === 200, `${url}: ${answer?.status()}`);
    await page.screenshot({ path: `${pictures}/${name}${colorScheme === "dark" ? "-dark" : ""}.png`, fullPage: true });
    await plain.close();

    const scripted = await browser.newContext({ colorScheme, bypassCSP: true });
    const copy = await scripted.newPage();
    await copy.goto(url);
    await check(copy, `${name} (${colorScheme})`);
    await scripted.close();
  }
}

async function json(path) {
  const answer = await fetch(address + path);
  assert.equal(answer.status, 200, path);
  return answer.json();
}

const context = await browser.newContext({ colorScheme: "light", javaScriptEnabled: false });
const page = await context.newPage();
watch(page);
const rows = () => page.locator("tbody tr").count();

// The overview, then the queue, and its filters.
await look(`${address}/`, "overview");
await page.goto(`${address}/`);
await page.getByRole("link", { name: "Queue", exact: true }).click();
assert.equal(page.url(), `${address}/queue`);
const open = await rows();
assert.ok(open > 1, `${open} rows in the queue`);
assert.equal(await page.getByLabel("Decision").inputValue(), "open", "it opens on what waits");
await page.getByRole("link", { name: "Everything" }).click();
const all = await rows();
assert.ok(all > open, `${open} of ${all} wait`);
assert.ok(await page.getByText(`${all} examinations`).isVisible(), "they are counted");
await page.getByRole("link", { name: "Reset" }).click();
assert.equal(await rows(), open);
await page.getByRole("link", { name: "Everything" }).click();
await page.getByLabel("Verdict").selectOption("orthogonalized");
await page.getByRole("button", { name: "Show" }).click();
assert.match(page.url(), /outcome=orthogonalized/);
const found = await rows();
assert.ok(found > 0 && found < all, `${found} of ${all} after filtering`);
assert.equal(await page.locator("tbody td:first-child", { hasText: "orthogonalized" }).count(), found);
await page.getByLabel("Repository contains").fill("two-faces");
await page.getByRole("button", { name: "Show" }).click();
assert.equal(await rows(), 1, "a part of a name finds its repository");
await look(`${address}/queue`, "queue");

// A dossier of a repository with several checkpoints.
await page.locator("tbody tr").first().getByRole("rowheader").getByRole("link").click();
assert.match(page.url(), /\/examination\//);
assert.ok(await page.getByRole("heading", { name: "Variants examined" }).isVisible());
assert.ok((await page.getByRole("region", { name: "Variants examined" }).locator("tbody tr").count()) > 1);
await look(page.url(), "dossier-variants");

// The dossier of a single orthogonalized checkpoint, and a decision about it.
await page.goto(`${address}/queue?outcome=orthogonalized`);
const name = "assistant-free";
const row = page.locator("tbody tr", { hasText: name });
await ((await row.count()) ? row : page.locator("tbody tr")).first().getByRole("rowheader").getByRole("link").click();
const dossier = page.url();
const id = dossier.split("/").pop();
const text = (await page.content()).toLowerCase();
for (const needed of [
  "consistent with weight orthogonalization",
  "what it does not say",
  "false positives: ",
  "detection limit",
  "benign look-alikes considered",
  "how to check or appeal this",
]) {
  assert.ok(text.includes(needed), `the dossier lacks: ${needed}`);
}
assert.equal(await page.locator("input[type=radio]:checked").count(), 0, "nothing is chosen beforehand");
await page.getByLabel("Who decides").fill("B. Moderator");
await page.getByLabel("needs a second look").check();
await page.getByRole("button", { name: "Record" }).click();
assert.equal(page.url(), dossier, "a reason is wanted");
await page.getByLabel("Why").fill("asked the publisher <b>first</b>");
await page.getByRole("button", { name: "Record" }).click();
assert.ok(page.url().endsWith(`?after=${id}`) && !page.url().startsWith(dossier), "on to the next that waits");
assert.equal(await page.getByLabel("Who decides").inputValue(), "B. Moderator");
await page.getByRole("status").getByRole("link").click();
assert.equal(page.url(), dossier);
assert.ok(await page.getByRole("cell", { name: "B. Moderator" }).isVisible());
assert.ok(await page.getByRole("cell", { name: "asked the publisher <b>first</b>" }).isVisible());
await look(dossier, "dossier");

// The audit trail has it, and leads back.
await page.goto(`${address}/decisions`);
assert.ok(await page.getByText("The audit trail is whole").isVisible());
const entry = page.locator("tbody tr", { hasText: "B. Moderator" });
assert.equal(await entry.count(), 1);
assert.ok((await entry.textContent()).includes("needs a second look"));
await entry.getByRole("link").click();
assert.equal(page.url(), dossier);
await look(`${address}/decisions`, "decisions");

// History of the repository and the family tree of its base, from the dossier's links.
await page.getByRole("link", { name: "all examinations of this repository" }).click();
assert.ok((await rows()) > 0, "the repository has a history");
await look(page.url(), "repository");
await page.goto(dossier);
await page.getByRole("link", { name: "family tree of its base" }).click();
assert.ok((await page.locator("table.tree tbody tr").count()) > 1, "the tree has derivatives");
await look(page.url(), "tree");
await look(`${address}/prevalence`, "prevalence");
await page.goto(`${address}/prevalence`);
assert.ok((await page.locator("figure svg").count()) > 0, "prevalence has pictures");

// The JSON interface says the same.
const record = await json(`/api/v1/examinations/${id}`);
assert.equal(record.schema, "orthoscope/examination/1");
assert.equal(record.verdict, "orthogonalized");
const listed = await json("/api/v1/examinations?outcome=orthogonalized&rows=500");
assert.equal(listed.items.length, found, "the API's list and the queue agree");
const trail = await json(`/api/v1/examinations/${id}/decisions`);
assert.equal(trail.at(-1).decision, "second-look");
assert.equal(trail.at(-1).note, "asked the publisher <b>first</b>");
const described = await json("/api/openapi.json");
assert.ok(described.paths["/examinations/{id}/decisions"].post);

// The file that is attached to a ticket, opened from disk: nothing else is asked for.
const attached = `${work}/dossier.html`;
const finding = record.findings[0].id;
execFileSync(binary, ["report", "--index", index, "--finding", finding, "--format", "html", "--out", attached]);
await look(pathToFileURL(attached).href, "dossier-file");

// Keyboard alone: the first stop skips to the content.
const scripted = await browser.newContext({ viewport: { width: 390, height: 800 }, bypassCSP: true });
const phone = await scripted.newPage();
await phone.goto(`${address}/queue`);
await phone.keyboard.press("Tab");
assert.equal(await phone.evaluate(() => document.activeElement.textContent), "Skip to the content");

// A telephone's width, and paper.
const base = encodeURIComponent(record.base.source);
const places = {
  overview: "/",
  queue: "/queue",
  dossier: `/examination/${id}`,
  tree: `/tree?base=${base}`,
  prevalence: "/prevalence",
};
for (const [name, path] of Object.entries(places)) {
  for (const colorScheme of ["light", "dark"]) {
    await phone.emulateMedia({ colorScheme });
    await phone.goto(address + path);
    await phone.screenshot({ path: `${pictures}/${name}-phone${colorScheme === "dark" ? "-dark" : ""}.png`, fullPage: true });
    await check(phone, `${name} (telephone, ${colorScheme})`);
  }
  const overflow = await phone.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(overflow <= 0, `${path} is ${overflow} pixels too wide for a telephone`);
  // Letters of pictures as they are drawn, and the room that names have.
  const letters = await phone.evaluate(() =>
    [...document.querySelectorAll("svg text")].filter((one) => one.getClientRects().length)
      .map((one) => parseFloat(getComputedStyle(one).fontSize) * one.getScreenCTM().a || Infinity));
  assert.ok(Math.min(...letters, Infinity) >= 9, `${path} has letters of ${Math.min(...letters)} pixels`);
  const names = await phone.evaluate(() =>
    [...document.querySelectorAll("table.stack tbody th[scope=row]")].map((one) => one.getBoundingClientRect().width));
  assert.ok(Math.min(...names, Infinity) > 150 || name === "overview", `${path} leaves a name ${Math.min(...names)} pixels`);
}
await phone.goto(`${address}/queue`);
assert.ok(!(await phone.locator("form.filters").isVisible()), "filters are folded away");
await phone.getByLabel("Show the filters").check();
assert.ok(await phone.locator("form.filters").isVisible(), "and come out again");
// Nothing is cut off at the width of a desk.
await phone.setViewportSize({ width: 1280, height: 800 });
for (const [name, path] of Object.entries(places)) {
  await phone.goto(address + path);
  const cut = await phone.evaluate(() =>
    [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel));
  assert.deepEqual(cut, [], `${name} cuts tables off`);
}
await page.goto(dossier);
await page.emulateMedia({ media: "print" });
await page.setViewportSize({ width: 794, height: 1123 });
await page.screenshot({ path: `${pictures}/dossier-print.png`, fullPage: true });
await page.pdf({ path: `${pictures}/dossier.pdf`, format: "A4" });

await browser.close();
assert.deepEqual(faults, []);
for (const file of (await readdir(pictures)).sort()) {
  const { size } = await stat(`${pictures}/${file}`);
  assert.ok(size > 4000, `${file} has ${size} bytes`);
  console.log(`${pictures}/${file}: ${size} bytes`);
}
console.log(`browser test passed; no serious accessibility fault on ${checked.length} views: ${checked.join(", ")}`);
