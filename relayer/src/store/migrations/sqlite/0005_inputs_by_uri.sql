-- Inputs that are at a URI: which requests wait for one, and what was fetched.

ALTER TABLE requests ADD COLUMN uri TEXT;                                -- where the input is; none: it came with the request, or nobody has said yet
ALTER TABLE requests ADD COLUMN input_size INTEGER;                      -- of such an input, as announced
ALTER TABLE requests ADD COLUMN awaits_input INTEGER NOT NULL DEFAULT 0; -- 1: it is at a URI and not here yet
ALTER TABLE requests ADD COLUMN fetch_tries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN fetch_problem TEXT;                      -- what went wrong with the last try

CREATE INDEX requests_by_want ON requests (deadline) WHERE awaits_input = 1;

-- What was fetched, by its keccak256. Bounded: the oldest go first.
CREATE TABLE inputs (
    hash        BLOB    PRIMARY KEY,
    input       BLOB    NOT NULL,
    size        INTEGER NOT NULL,         -- bytes
    fetched_at  INTEGER NOT NULL          -- unix milliseconds, this machine's clock
);

CREATE INDEX inputs_by_age ON inputs (fetched_at, hash);
