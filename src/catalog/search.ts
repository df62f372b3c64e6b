import { badInput } from '../base/errors.ts';

const SEARCH_LENGTH_MAX = 200;

/** The words of a text: runs of letters and digits, lower case. Both sides of a search are cut alike, so Postgres's parser has no say. */
export function words(text: string): string[] {
  return (
    text
      .normalize('NFKC')
      .toLowerCase()
      .match(/[\p{L}\p{M}\p{N}]+/gu) ?? []
  );
}

/**
 * A `to_tsquery('simple', …)` for texts that have every word of `search`, of the last one its beginning; null where there is no word.
 * @throws BAD_USER_INPUT `search`
 */
export function searchQuery(search: string): string | null {
  if (search.length > SEARCH_LENGTH_MAX) {
    throw badInput('search', `search must be at most ${SEARCH_LENGTH_MAX} characters.`, {
      expected: `at most ${SEARCH_LENGTH_MAX} characters`,
    });
  }
  const found = words(search);
  return found.length === 0 ? null : `${found.join(' & ')}:*`;
}
