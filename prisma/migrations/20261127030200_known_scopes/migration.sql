-- A key's scopes are known: none is the empty list.
BEGIN;
SET LOCAL ROLE mercato_system;
UPDATE api_key SET scopes = '{}' WHERE scopes IS NULL;
SET LOCAL ROLE mercato_owner;
ALTER TABLE "api_key" ALTER COLUMN "scopes" SET NOT NULL;

COMMIT;
