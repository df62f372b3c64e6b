BEGIN;
SET LOCAL ROLE mercato_owner;

-- No units are lent of a month that is closed, which a clock that was set back may be in again: none of their calls could be billed.
CREATE TRIGGER "lease_period" BEFORE INSERT ON "lease" FOR EACH ROW EXECUTE FUNCTION mercato_check_period();

COMMIT;
