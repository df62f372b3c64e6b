import { NameSet } from './name-set.ts';
import { rejected } from './rejections.ts';
import type { OnnxFunction, OnnxGraph, OnnxNode } from './schema.ts';

/** The names that a body may read: its own, and those of the graphs around it. */
export class Scope {
  readonly #outer: Scope | null;
  readonly #names = new NameSet();
  /** Most nodes read what the one before them made. */
  #latest: string | null = null;

  constructor(outer: Scope | null) {
    this.#outer = outer;
  }

  /** Whether another graph is around. */
  get inner(): boolean {
    return this.#outer !== null;
  }

  /** False where the body has made the name already. */
  add(name: string): boolean {
    this.#latest = name;
    return this.#names.add(name);
  }

  has(name: string): boolean {
    return name === this.#latest || this.#names.has(name) || (this.#outer?.has(name) ?? false);
  }
}

/** What a graph has before its first node runs. Errors: an initializer given twice. An input may have one, as its default. */
export function openScope(graph: OnnxGraph, place: string, outer: Scope | null): Scope {
  const scope = new Scope(outer);
  const constants = [...graph.initializer.map(({ name }) => name), ...graph.sparseInitializer.map(({ values }) => values?.name)];
  for (const [index, name = ''] of constants.entries()) {
    if (name !== '' && !scope.add(name)) throw rejected('NAME_TWICE', 'Two initializers have one name.', `${place}.initializer[${index}]`);
  }
  for (const { name = '' } of graph.input) scope.add(name);
  return scope;
}

export function functionScope({ input }: OnnxFunction, place: string): Scope {
  const scope = new Scope(null);
  for (const name of input) if (!scope.add(name)) throw rejected('NAME_TWICE', 'The function has two inputs of one name.', place);
  return scope;
}

/** Errors: the node reads what nothing before it makes. An empty name leaves an optional input out. */
export function checkReads({ input }: OnnxNode, place: () => string, scope: Scope): void {
  for (let index = 0; index < input.length; index++) {
    const name = input[index] ?? '';
    if (name === '' || scope.has(name)) continue;
    throw rejected('VALUE_UNDEFINED', `The node reads ${JSON.stringify(name.slice(0, 60))}, which nothing before it makes.`, place());
  }
}

/** Errors: the node makes a value that its graph has already. */
export function checkMakes({ output }: OnnxNode, place: () => string, scope: Scope): void {
  for (let index = 0; index < output.length; index++) {
    const name = output[index] ?? '';
    if (name === '' || scope.add(name)) continue;
    throw rejected('NAME_TWICE', `The value ${JSON.stringify(name.slice(0, 60))} is made twice.`, place());
  }
}

/** Errors: an output that the body does not make. */
export function checkOutputs(names: readonly (string | undefined)[], place: string, scope: Scope): void {
  for (const [index, name = ''] of names.entries()) {
    if (!scope.has(name)) throw rejected('VALUE_UNDEFINED', 'Nothing makes this output.', `${place}.output[${index}]`);
  }
}
