import { type FragmentDefinitionNode, type GraphQLResolveInfo, Kind, type SelectionSetNode, type ValueNode } from 'graphql';
import type { Written } from './answers.ts';

type Fragments = Readonly<Record<string, FragmentDefinitionNode>>;
/** What is always written, and, for each variable that says how, how often. */
type Counted = Written & { byVariable: Map<string, number> };

/** Documents come again. */
const counted = new WeakMap<SelectionSetNode, Counted>();

/** How often a field of type PredictPayload asks for `data` of the outputs, under whatever aliases; what `@skip` and `@include` leave out counts too. */
export function writtenBy({
  fieldNodes,
  fragments,
  variableValues,
}: Pick<GraphQLResolveInfo, 'fieldNodes' | 'fragments' | 'variableValues'>): Written {
  const written = { json: 0, base64: 0 };
  for (const { selectionSet } of fieldNodes) {
    if (selectionSet === undefined) continue;
    let found = counted.get(selectionSet);
    if (found === undefined) {
      found = { json: 0, base64: 0, byVariable: new Map() };
      count(selectionSet, fragments, found);
      counted.set(selectionSet, found);
    }
    written.json += found.json;
    written.base64 += found.base64;
    for (const [name, times] of found.byVariable) written[variableValues[name] === 'BASE64' ? 'base64' : 'json'] += times;
  }
  return written;
}

function count({ selections }: SelectionSetNode, fragments: Fragments, into: Counted): void {
  for (const node of selections) {
    if (node.kind === Kind.FRAGMENT_SPREAD) {
      const fragment = fragments[node.name.value];
      if (fragment !== undefined) count(fragment.selectionSet, fragments, into);
    } else if (node.selectionSet !== undefined) count(node.selectionSet, fragments, into);
    else if (node.kind === Kind.FIELD && node.name.value === 'data')
      add(node.arguments?.find(({ name }) => name.value === 'encoding')?.value, into);
  }
}

function add(encoding: ValueNode | undefined, into: Counted): void {
  if (encoding?.kind === Kind.VARIABLE) into.byVariable.set(encoding.name.value, (into.byVariable.get(encoding.name.value) ?? 0) + 1);
  else if (encoding?.kind === Kind.ENUM && encoding.value === 'BASE64') into.base64++;
  else into.json++;
}
