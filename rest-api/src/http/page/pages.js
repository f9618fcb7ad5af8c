// A long list that is read page by page. Of pages far from the window only their addresses are kept, so that the memory of
// a list of any length is bounded.
import { ask } from "./api.js";

/** How many items the first page has, which is to show soon, and how many the others. */
export const FIRST = 100;
const OTHERS = 500;

/** How many pages are kept. */
const KEPT = 8;

export class Pages {
  /** The list that begins at `address`. `onChange` is called when there is more of it to show. */
  constructor(address, onChange) {
    this.pages = [];
    this.count = 0;
    this.nextAddress = address;
    this.onChange = onChange;
    this.controller = new AbortController();
    this.loading = new Set();
    this.problem = undefined;
  }

  /** Whether the end of the list is known. */
  get isWhole() {
    return this.nextAddress === undefined;
  }

  /** Returns the item at a place; undefined if it is not loaded. */
  at(index) {
    const page = this.pages.findLast((candidate) => candidate.start <= index);
    return page?.items?.[index - page.start];
  }

  /** Loads what is missing from `first` to `last`, and the next page if that is near the end. */
  need(first, last) {
    if (this.problem) return;
    for (const page of this.pages) {
      if (page.start <= last && page.start + page.count > first && !page.items) this.load(page);
    }
    const isNear = last + 40 >= this.count;
    if (isNear && this.nextAddress && !this.loading.has(this.nextAddress)) {
      this.load({ address: this.nextAddress, start: this.count });
    }
    this.forget((first + last) / 2);
  }

  /** Asks again after a problem. */
  retry() {
    this.problem = undefined;
    this.onChange();
  }

  /** Stops all requests. */
  close() {
    this.controller.abort();
  }

  async load(page) {
    if (this.loading.has(page.address)) return;
    this.loading.add(page.address);
    try {
      const answer = await ask(page.address, { signal: this.controller.signal, anonymous: true });
      page.items = answer.value;
      if (page.address === this.nextAddress) {
        page.count = answer.value.length;
        this.pages.push(page);
        this.count += page.count;
        this.nextAddress = answer.next?.replace(`limit=${FIRST}`, `limit=${OTHERS}`);
      }
    } catch (problem) {
      if (this.controller.signal.aborted) return;
      this.problem = problem;
    } finally {
      this.loading.delete(page.address);
    }
    this.onChange();
  }

  /** Forgets the items of the pages that are farthest from a place. */
  forget(middle) {
    const loaded = this.pages.filter((page) => page.items);
    if (loaded.length <= KEPT) return;
    const distance = (page) => Math.abs(page.start + page.count / 2 - middle);
    loaded.sort((a, b) => distance(a) - distance(b));
    for (const page of loaded.slice(KEPT)) page.items = undefined;
  }
}
