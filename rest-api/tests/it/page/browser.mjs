// Uses the page in a real browser: `browser.mjs FLOW ADDRESS BROWSER [ARGUMENT]`. Fails with the first thing that is not as
// expected, with any error in the console, and with any request to another host.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import readline from "node:readline";
import { chromium } from "playwright-core";

const [, , flow, address, browserPath, argument] = process.argv;
const ARGUMENTS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
--disable-component-update --disable-sync".split(" ");

/** The views for which nobody needs to sign in. */
const VIEWS = [
  "#/",
  "#/?q=alien",
  "#/?q=nothingatall",
  "#/movies/1",
  "#/movies/999999",
  "#/files",
  "#/ingests/1",
  "#/operations",
  "#/account",
];

const FLOWS = {
  async find({ page, sees, address: at }) {
    await page.fill("#q", "terminatr");
    await sees(".card .name", "The Terminator");
    // Of the three movies of this genre one is a result.
    await sees("button.chip:has-text('Science Fiction') .count", "1");
    await page.click("button.chip >> text=Science Fiction");
    await page.waitForFunction(() => document.querySelectorAll(".card").length === 1);
    for (const each of ["q=terminatr", "genre=Science+Fiction"]) assert.ok(page.url().includes(each), page.url());
    await page.click(".card");
    await sees("h1", "The Terminator");
    await page.waitForFunction(() => document.activeElement.tagName === "H1");
    await page.goBack();
    await sees(".card .name", "The Terminator");
    assert.equal(await page.inputValue("#q"), "terminatr");
    assert.equal(await page.getAttribute("button.chip.on[aria-pressed]", "aria-pressed"), "true");
    await page.goForward();
    await sees("h1", "The Terminator");
    await page.click("a >> text=Arnold Schwarzenegger");
    await page.waitForFunction(() => document.querySelectorAll(".card").length === 1);

    // The years can be dragged, and the address opens the same view elsewhere.
    await page.goto(`${at}/#/`);
    await page.waitForFunction(() => document.querySelectorAll(".card").length === 8);
    const box = await page.locator(".years svg").boundingBox();
    await page.mouse.move(box.x + box.width * 0.45, box.y + 20);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.75, box.y + 20, { steps: 4 });
    await page.mouse.up();
    await page.waitForFunction(() => /year=\d+\.\.\d+/.test(location.hash));
    await page.waitForFunction(() => document.querySelectorAll(".card").length < 8);
    const names = await page.locator(".card .name").allTextContents();
    const other = await page.context().newPage();
    await other.goto(page.url());
    await other.waitForSelector(".card");
    assert.deepEqual(await other.locator(".card .name").allTextContents(), names);
    await page.fill("#q", "zzzzqqqq");
    await sees(".note", "No movie matches");
    await page.click("text=Show all movies");
    await page.waitForFunction(() => document.querySelectorAll(".card").length === 8);
  },

  async keyboard({ page, sees }) {
    const press = (key) => page.keyboard.press(key);
    const tabTo = async (selector) => {
      for (let presses = 0; presses < 60; presses++) {
        if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
        await press("Tab");
      }
      assert.fail(`Tab does not reach ${selector}`);
    };
    await page.waitForSelector(".card");
    await press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await press("/");
    await page.waitForFunction(() => document.activeElement.id === "q");
    await page.keyboard.type("sigour");
    await page.waitForSelector("[role=option]:visible");
    await press("ArrowDown");
    await press("Enter");
    await page.waitForFunction(() => location.hash.includes("actor=Sigourney"));
    await page.waitForFunction(() => document.querySelectorAll(".card").length === 2);
    await tabTo("[role=slider]");
    await press("ArrowRight");
    await page.waitForFunction(() => location.hash.includes("year="));
    await tabTo("button.chip[aria-pressed=false]");
    await press("Space");
    await page.waitForFunction(() => location.hash.includes("genre="));
    await tabTo(".card");
    await press("Enter");
    await sees("h1", "Alien");
    await page.waitForFunction(() => document.activeElement.tagName === "H1");
    await tabTo("summary");
    await press("Enter");
    await sees(".changes", "Created");
    await press("/");
    await page.waitForFunction(() => document.activeElement.id === "q");
    await page.waitForFunction(() => document.querySelectorAll(".card").length === 8);
    await tabTo(".card");
    await press("ArrowRight");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.index), "1");
  },

  async edit({ page, sees, address: at, signIn, allow }) {
    allow(412, 410, 401);
    await page.goto(`${at}/#/account`);
    await page.fill("#name", "ada");
    await page.fill("#password", "not this one");
    await page.click("form button.main");
    await sees("[role=alert]", "");
    await page.goto(`${at}/#/movies/1`);
    await sees("h1", "The Terminator");
    assert.equal(await page.locator("text=Edit").count(), 0);
    await signIn();
    await page.waitForSelector("button >> text=Edit");
    assert.ok(!page.url().includes("ey"), "no token in the address");
    const stored = await page.evaluate(() =>
      JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]),
    );
    assert.equal(stored, '[{"movies-r-us.session":"1"},{},""]');

    // Somebody else changes the movie while the form is open.
    await page.click("button >> text=Edit");
    await page.fill("#edit-extract", "Mine.");
    await page.fill("#edit-genres", "Action\nMachines");
    const { token } = JSON.parse(argument);
    const etag = (await fetch(`${at}/movies/1`)).headers.get("etag");
    const headers = {
      authorization: `Bearer ${token}`,
      "if-match": etag,
      "content-type": "application/merge-patch+json",
    };
    const theirs = await fetch(`${at}/movies/1`, {
      method: "PATCH",
      headers,
      body: '{"extract":"Theirs.","cast":["Linda Hamilton"]}',
    });
    assert.equal(theirs.status, 200);
    await page.click("text=Save");
    await sees(".conflict", "Theirs.");
    await sees(".conflict", "Mine.");
    await page.locator("fieldset", { hasText: "Summary" }).getByText("Theirs.").click();
    await page.click("text=Go on");
    assert.equal(await page.inputValue("#edit-extract"), "Theirs.");
    await page.click("text=Save");
    await sees(".said", "Saved.");
    const now = await (await fetch(`${at}/movies/1`)).json();
    assert.deepEqual([now.extract, now.genres, now.cast], ["Theirs.", ["Action", "Machines"], ["Linda Hamilton"]]);

    await page.click("button >> text=Hold");
    await page.click("dialog button.main");
    await sees(".badge", "Held by ada");
    // The session outlives the page.
    await page.reload();
    await sees(".badge", "Held by ada");
    await page.click("button >> text=Release");
    await page.click("dialog button.main");
    await page.waitForSelector(".badge", { state: "detached" });
    await page.click("button >> text=Delete");
    await page.click("dialog button.danger");
    await sees("h1", "not in the catalogue any more");
    assert.equal((await fetch(`${at}/movies/1`)).status, 410);
    await page.goto(`${at}/#/`);
    await page.waitForFunction(() => document.querySelectorAll(".card").length === 7);
    await page.goto(`${at}/#/account`);
    await page.click("text=Sign out");
    await sees("h1", "Sign in");
    await page.reload();
    await sees(".who", "Sign in");
  },

  async outage({ page, sees, step, allowAll }) {
    allowAll();
    await page.waitForSelector(".card");
    await step("stop");
    await page.fill("#q", "alien");
    await sees(".note.bad", "The service does not answer");
    await step("start");
    // It asks again by itself.
    await page.waitForFunction(() => document.querySelector(".card .name")?.textContent === "Alien", null, {
      timeout: 30_000,
    });
    assert.equal(await page.locator(".note.bad").count(), 0);
    await page.waitForSelector("button.chip");
  },

  async long({ page }) {
    const count = Number(argument);
    let most = 0;
    for (let round = 0; ; round++) {
      assert.ok(round < 5_000, "the end of the list is not reached");
      const [last, cards, nodes] = await page.evaluate(() => {
        const all = [...document.querySelectorAll("[data-index]")];
        scrollTo(0, document.documentElement.scrollHeight);
        return [Number(all.at(-1)?.dataset.index ?? 0), all.length, document.querySelectorAll("*").length];
      });
      most = Math.max(most, cards);
      assert.ok(cards < 120 && nodes < 3_000, `${cards} cards, ${nodes} elements`);
      if (last === count - 1) break;
      await page.waitForTimeout(20);
    }
    const kept = await page.evaluate(() => document.querySelectorAll("[aria-posinset]").length);
    assert.ok(kept < 120 && most > 10);
    await page.evaluate(() => scrollTo(0, 0));
    await page.waitForSelector('[data-index="0"]');
  },

  async files({ page, sees, address: at, signIn, allow }) {
    allow(422);
    await signIn();
    await page.goto(`${at}/#/files`);
    const bad =
      '[\n  {"title": "Good", "year": 2001},\n  {"title": "Zażółć <b>gęślą</b>", "year": 1959,\n   "genre": ["Drama"]}\n]\n';
    const put = (text) =>
      page.setInputFiles("input[type=file]", {
        name: "mine.json",
        mimeType: "application/json",
        buffer: Buffer.from(text),
      });
    await put(bad);
    await sees(".violations", "did you mean");
    await sees(".violations", "line 4");
    await sees(".violations mark", '"genre"');
    await put(bad.replace('"genre"', '"genres"'));
    await sees(".checked", "2 movies");
    await page.click("text=Add to the catalogue");
    await sees(".checked", "2 new");
    await page.goto(`${at}/#/?q=zazolc`);
    await sees(".card .name", "Zażółć <b>gęślą</b>");
  },

  /** From a bad file to its movie. */
  async upload({ page, sees, address: at, signIn, allow, allowOrigin }) {
    allow(422);
    allowOrigin(argument);
    await signIn();
    await page.goto(`${at}/#/files`);
    const bad = '[\n  {"title": "From a browser", "year": "2001"}\n]\n';
    const choose = (...files) => page.setInputFiles("input[type=file]", files);
    const file = (name, text) => ({ name, mimeType: "application/json", buffer: Buffer.from(text) });
    await choose(file("mine.json", bad));
    await sees(".violations mark", '"2001"');
    assert.equal(await page.locator("button >> text=Put into the bucket").count(), 0);
    await choose(file("mine.json", bad.replace('"2001"', "2001")));
    await page.fill("input[placeholder='incoming/']", "page/");
    await page.click("button >> text=Put into the bucket");
    await sees(".checked .state.succeeded", "succeeded");
    await sees(".checked", "1 new");
    // The list follows without being asked.
    await sees("td.key", "page/mine.json");
    await page.click(".checked a");
    await sees("h1", "page/mine.json");
    await page.goto(`${at}/#/?q=from+a+browsr`);
    await sees(".card .name", "From a browser");

    // Several at once, one of which is stopped; what was put before is still listed.
    await page.goto(`${at}/#/files`);
    await sees(".checked .state.succeeded", "succeeded");
    const many = Array.from({ length: 6 }, (_, n) => file(`${n}.json`, `{"title":"Many ${n}","year":2000}`));
    await choose(...many);
    await page.click("text=Put all 6 into the bucket");
    await page.waitForFunction(() => document.querySelectorAll(".checked .state.succeeded").length === 7);

    // The bucket does not answer, and does again.
    const bucket = (url) => url.origin === argument;
    await page.route(bucket, (route) => route.abort());
    allow(422, "ERR_FAILED");
    await choose(file("again.json", '{"title":"Again","year":2000}'));
    await page.click("button >> text=Put into the bucket");
    await sees(".checked [role=alert]", "The bucket has not taken it");
    await page.unroute(bucket);
    await page.click(".checked button >> text=Try again");
    await sees(".checked li", "page/again.json");
    await page.waitForFunction(() => document.querySelectorAll(".checked .state.succeeded").length === 8);

    // Who looks elsewhere is told. A browser without a screen shows no notice, so the test keeps what it is given.
    await page.evaluate(() => {
      Object.defineProperty(document, "hidden", { value: true });
      window.notices = [];
      window.Notification = class {
        static permission = "granted";
        constructor(title, { tag }) {
          window.notices.push({ title, tag });
        }
      };
    });
    await choose(file("last.json", '{"title":"Last","year":2000}'));
    await page.click("button >> text=Put into the bucket");
    await page.waitForFunction(() => window.notices.length === 1);
    const [{ title, tag }] = await page.evaluate(() => window.notices);
    assert.match(title, /page\/last\.json.*succeeded/);
    assert.match(tag, /^ingest-\d+$/);
  },

  async ingests({ page, sees, address: at, signIn, allow }) {
    allow(401);
    await page.goto(`${at}/#/files`);
    await sees("td.key", "<img src=x>");
    await page.selectOption("select", "rejected");
    await page.waitForFunction(() => document.querySelectorAll("tbody tr").length === 1);
    await page.click("td.key a");
    await sees("h1", "<img src=x>");
    await sees(".violations", "<svg onload=alert(1)>");
    assert.equal(await page.locator("main img, main svg[onload], main script").count(), 0);
    const { good } = JSON.parse(argument);
    await page.goto(`${at}/#/ingests/${good}`);
    await sees("h1", "good.json");
    assert.equal(await page.locator("button >> text=Undo").count(), 0);
    await signIn();
    await page.click("button >> text=Undo");
    await sees("dialog", "1 withdrawn");
    await sees("dialog .effect", "From a file");
    await page.click("dialog button.danger");
    await page.waitForSelector("button >> text=Redo");
    await page.click("button >> text=Redo");
    await sees("dialog", "1 restored");
    await page.click("dialog button.danger");
    await page.waitForSelector("button >> text=Undo");
  },

  async blocked({ page, sees, address: at, signIn, allow }) {
    allow(401);
    await signIn();
    await page.goto(`${at}/#/ingests/${argument}`);
    await sees(".state.blocked", "blocked");
    await page.click("button >> text=Approve");
    await sees("dialog", "would withdraw 2 of the 3 movies");
    await sees("dialog .effect", "C (2000)");
    await page.click("dialog button.danger");
    // It follows what the worker does.
    await sees(".state.succeeded", "succeeded");
    await sees("[role=status]", "2 withdrawn");
  },

  async details({ page, sees, address: at, allowOrigin }) {
    const images = "https://image.tmdb.org";
    allowOrigin(images);
    const picture = '<svg xmlns="http://www.w3.org/2000/svg" width="2" height="3"/>';
    await page.route(`${images}/**`, (route) => route.fulfill({ contentType: "image/svg+xml", body: picture }));
    await page.goto(`${at}/#/movies/1`);
    await sees(".details", "not endorsed");
    await page.waitForFunction(() => document.querySelector(".movie > img.picture")?.naturalWidth > 0);
    const link = page.locator(".details a >> text=TMDB").first();
    assert.ok((await link.getAttribute("href")).startsWith("https://www.themoviedb.org/"));
  },

  async hostile({ page, sees, address: at }) {
    const title = `<img src=x onerror="document.title='owned'">`;
    await sees(".card .name", title);
    await page.click(`.card >> text=${title}`);
    await sees("h1", title);
    await sees(".extract", '</p><iframe src="https://example.com"></iframe> {n} ${x}');
    assert.equal(await page.locator("a[href^=javascript]").count(), 0);
    assert.equal(await page.locator("main img, main iframe, main script, main b").count(), 0);
    await page.goto(`${at}/#/?genre=${encodeURIComponent("<b onclick=alert(1)>Bold</b>")}`);
    await sees(".chip.on", "<b onclick=alert(1)>Bold</b>");
    assert.notEqual(await page.title(), "owned");
    const refused = await page.evaluate(() => {
      try {
        document.body.innerHTML = "<p>markup</p>";
        return false;
      } catch {
        return true;
      }
    });
    assert.ok(refused, "the policy lets text become markup");
  },

  async accessible({ page, address: at, allowAll, signIn, context }) {
    allowAll();
    const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
    const check = async (name) => {
      await page.evaluate(`(() => {${axe}})()`);
      const found = await page.evaluate(() =>
        axe.run(document, {
          runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
        }),
      );
      const faults = found.violations.map(
        ({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`,
      );
      assert.deepEqual(faults, [], name);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name} is ${wide} pixels too wide`);
    };
    const all = async (views, ready) => {
      for (const colorScheme of ["light", "dark"]) {
        for (const width of [390, 1024, 1600]) {
          await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
          await page.setViewportSize({ width, height: 900 });
          for (const view of views) {
            await page.goto("about:blank");
            await page.goto(`${at}/${view}`);
            await page.waitForSelector("h1", { state: "attached" });
            await quiet();
            await ready?.();
            await check(`${view} ${colorScheme} ${width}`);
          }
        }
      }
    };
    await all(VIEWS);
    await signIn();
    await all(["#/movies/2"], () =>
      page.click("button >> text=Edit").then(() => page.waitForSelector("#edit-extract")),
    );
    await all(["#/movies/2"], () =>
      page.click("button >> text=Delete").then(() => page.waitForSelector("dialog[open]")),
    );
    await all(["#/files"], async () => {
      await page.setInputFiles("input[type=file]", {
        name: "a.json",
        mimeType: "application/json",
        buffer: Buffer.from('{"title": 1}'),
      });
      await page.waitForSelector(".violations");
    });
    assert.equal((await context.pages()).length, 1);
  },
};

const browser = await chromium.launch({ executablePath: browserPath, args: ARGUMENTS });
const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
const page = await context.newPage();
page.setDefaultTimeout(20_000);
const faults = [];
const origins = [address];
let allowed = [];
page.on("pageerror", (error) => faults.push(error.stack));
page.on("dialog", (dialog) => faults.push(`a dialog: ${dialog.message()}`));
page.on("console", (message) => {
  if (!["error", "warning"].includes(message.type())) return;
  const text = message.text();
  // The browser reports answers of 4xx and lost connections itself.
  const isAllowed =
    text.startsWith("Failed to load resource") &&
    allowed.some((status) => status === "all" || text.includes(` ${status} `) || text.includes(`::${status}`));
  if (!isAllowed && !text.includes("TrustedHTML")) faults.push(`console: ${text}`);
});
context.on("request", (request) => {
  const url = new URL(request.url());
  if (!["about:", "data:", "blob:"].includes(url.protocol) && !origins.includes(url.origin))
    faults.push(`a request to ${url.origin}`);
});
const pending = new Set();
context.on("request", (request) => pending.add(request));
for (const end of ["requestfinished", "requestfailed"]) context.on(end, (request) => pending.delete(request));
/** Waits until every answer is there. A stream of events has no end. */
const quiet = async () => {
  const isPending = (request) => new URL(request.url()).pathname !== "/events";
  for (let idle = 0; idle < 5; idle = [...pending].some(isPending) ? 0 : idle + 1) await page.waitForTimeout(100);
};
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

await page.goto(`${address}/`);
await FLOWS[flow]({
  page,
  context,
  address,
  allow: (...statuses) => (allowed = statuses),
  allowAll: () => (allowed = ["all"]),
  allowOrigin: (origin) => origins.push(origin),
  sees: (selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor(),
  /** Asks the test to do something, and waits until it has. */
  step: async (name) => {
    console.log(name);
    await lines.next();
  },
  signIn: async () => {
    const before = page.url();
    await page.goto(`${address}/#/account`);
    await page.fill("#name", "ada");
    await page.fill("#password", "correct horse battery");
    await page.click("form button.main");
    await page.waitForFunction(() => document.querySelector(".who").textContent.trim() === "ada");
    await page.goto(before);
  },
}).catch(async (error) => {
  console.error(`${faults.join("\n")}\nThe page shows:\n${await page.innerText("main")}`);
  throw error;
});
assert.deepEqual(faults, []);
await browser.close();
process.exit(0);
