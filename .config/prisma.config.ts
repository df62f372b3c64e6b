// Generating never starts the schema engine; any existing binary keeps the CLI from downloading one.
process.env.PRISMA_SCHEMA_ENGINE_BINARY ??= process.execPath;

export default {
  schema: '../prisma/schema.prisma',
  migrations: { path: '../prisma/migrations' },
};
