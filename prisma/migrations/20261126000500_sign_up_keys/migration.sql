-- Signing up makes a secret too, before there is a tenant to do it as.
BEGIN;
SET LOCAL ROLE mercato_owner;

GRANT SELECT, INSERT ON "mutation_key" TO mercato_system;
CREATE POLICY "system" ON "mutation_key" TO mercato_system USING (true) WITH CHECK (true);

COMMIT;
