-- Several workers on one queue, fairly between requesters; and disputes that a reorganisation takes back.

-- Whose work this is; unknown until an operator opens it.
ALTER TABLE deployment ADD COLUMN operator BYTEA;

-- Whose request it is: for turns.
ALTER TABLE requests ADD COLUMN requester BYTEA NOT NULL DEFAULT '';
UPDATE requests SET requester = substr(request, 1, 20);

-- Who works on it, and until when the others leave it alone (unix milliseconds on the database's clock).
ALTER TABLE requests ADD COLUMN worker TEXT;
ALTER TABLE requests ADD COLUMN claimed_until BIGINT;

CREATE INDEX requests_by_turn ON requests (step, requester, deadline, id);
CREATE INDEX requests_by_worker ON requests (worker) WHERE worker IS NOT NULL;

-- What only one of the processes may do at a time, and who does it.
CREATE TABLE leases (
    name        TEXT    PRIMARY KEY,      -- submitter
    holder      TEXT    NOT NULL,
    until       BIGINT  NOT NULL          -- unix milliseconds on the database's clock
);

-- The processes that share this store.
CREATE TABLE workers (
    name        TEXT    PRIMARY KEY,
    device      TEXT    NOT NULL,
    models      TEXT    NOT NULL,         -- names, with commas
    answered    BIGINT  NOT NULL,         -- requests that it ran a model for
    busy_millis BIGINT  NOT NULL,         -- time that it spent on that
    started_at  BIGINT  NOT NULL,         -- unix milliseconds on the database's clock
    alive_until BIGINT  NOT NULL
);

-- What happened to results after they were posted. A reorganisation can take back any of it.
CREATE TABLE result_events (
    id          BIGINT  NOT NULL,
    attempt     BIGINT  NOT NULL,
    block       BIGINT  NOT NULL,
    position    BIGINT  NOT NULL,         -- in the block
    event       TEXT    NOT NULL,         -- opened, upheld, rejected
    PRIMARY KEY (id, attempt, block, position)
);

CREATE INDEX result_events_by_block ON result_events (block);
