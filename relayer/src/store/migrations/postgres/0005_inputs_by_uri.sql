-- Inputs that are at a URI: which requests wait for one, and what was fetched.

ALTER TABLE requests ADD COLUMN uri TEXT;                               -- where the input is; none: it came with the request, or nobody has said yet
ALTER TABLE requests ADD COLUMN input_size BIGINT;                      -- of such an input, as announced
ALTER TABLE requests ADD COLUMN awaits_input BIGINT NOT NULL DEFAULT 0; -- 1: it is at a URI and not here yet
ALTER TABLE requests ADD COLUMN fetch_tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN fetch_problem TEXT;                     -- what went wrong with the last try

CREATE INDEX requests_by_want ON requests (deadline) WHERE awaits_input = 1;

-- What was fetched, by its keccak256. Bounded: the oldest go first.
CREATE TABLE inputs (
    hash        BYTEA   PRIMARY KEY,
    input       BYTEA   NOT NULL,
    size        BIGINT  NOT NULL,         -- bytes
    fetched_at  BIGINT  NOT NULL          -- unix milliseconds, this machine's clock
);

CREATE INDEX inputs_by_age ON inputs (fetched_at, hash);
