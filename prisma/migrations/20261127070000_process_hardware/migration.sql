-- What computes on the devices of a living process: what answers a version's samples only on hardware that no host has any more, answers them nowhere.
BEGIN;
SET LOCAL ROLE mercato_owner;

ALTER TABLE "server_process" ADD COLUMN "hardware" JSONB;

COMMIT;
