/** Fixed bounds that no configuration raises. What an operator may choose is in `config.ts`. */
export const LIMITS = {
  /** Elements of one tensor; its bytes are bounded by the body size as well. */
  tensorElements: 64 * 1024 * 1024,
  tensorRank: 16,
  tensorsPerCall: 256,
  /** Of the outputs of one call. */
  answerBytes: 24 * 1024 * 1024,
  /** What the outputs of one call may take as text: those bytes once as Base64, or 1.3 million elements as JSON. */
  answerChars: 32 * 1024 * 1024,
  /** Of the outputs that one server process holds for clients that have not read them; half for one tenant. */
  answersBytes: 512 * 1024 * 1024,
  /** So many times the largest body one server process holds at once of GraphQL requests over 64 KiB, until their answers have left; half for one tenant. */
  bodiesHeld: 16,
  nameLength: 255,
  idempotencyKeyLength: 255,
  deadlineMsMax: 60_000,
  /** The version's default where its owner sets none. */
  deadlineMsDefault: 10_000,
  modelBytesMax: 512 * 1024 * 1024,
  uploadLifetimeMs: 60 * 60 * 1000,
  /** After that, how long the file of an upload waits for something to be made of it. */
  uploadKeptMs: 7 * 24 * 60 * 60 * 1000,
  /** Exports of usage records that one server process streams at once, of a tenant and of all. */
  exportsPerTenant: 2,
  exports: 32,
  pageSizeMax: 100,
  pageSizeDefault: 20,
  plansPerListing: 20,
  tagsPerListing: 20,
  apiKeysPerTenant: 500,
  moneyNanosMax: 1_000_000_000n * 1_000_000_000n,
  unitsMax: 1_000_000_000_000n,
  /** A lease lives this long unless renewed; a process that has not heard from the database for as long stops trusting its memory. */
  leaseMs: 2_000,
} as const;
