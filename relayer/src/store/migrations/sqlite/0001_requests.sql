-- Everything the relayer must remember to survive a kill at any moment.

-- The one deployment that this file belongs to, and how far its events have been read.
CREATE TABLE deployment (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    chain_id    INTEGER NOT NULL,
    oracle      BLOB    NOT NULL,
    next_block  INTEGER NOT NULL          -- first block whose events have not been stored
);

-- Hashes of the last blocks read, to notice a reorganisation.
CREATE TABLE blocks (
    number      INTEGER PRIMARY KEY,
    hash        BLOB    NOT NULL
);

CREATE TABLE requests (
    id              INTEGER NOT NULL,
    attempt         INTEGER NOT NULL,     -- 0, and one more each time a result was rejected on chain
    step            TEXT    NOT NULL,     -- see Step in store/mod.rs
    request         BLOB    NOT NULL,     -- six packed words; their hash is what the oracle holds
    model           BLOB    NOT NULL,
    input           BLOB    NOT NULL,
    drawn           BLOB    NOT NULL,     -- operator that has the request to itself at first; zero for none
    exclusive_until INTEGER NOT NULL,     -- unix seconds
    deadline        INTEGER NOT NULL,     -- unix seconds
    block           INTEGER NOT NULL,     -- where it was asked
    output          BLOB,
    infer_micros    INTEGER,
    signature       BLOB,
    fulfillment     BLOB,                 -- ABI encoding of what the oracle holds
    fulfilled_block INTEGER,              -- where it was answered, by whomever, or cancelled
    final_at        INTEGER,              -- unix seconds
    finalized_block INTEGER,
    paid            TEXT,                 -- wei, decimal
    reason          TEXT,                 -- why it was dropped
    seen_at         INTEGER NOT NULL,     -- unix milliseconds, this machine's clock
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (id, attempt)
) WITHOUT ROWID;

CREATE INDEX requests_by_step ON requests (step, deadline);

-- Transactions are written here, signed, before they are sent: whatever happens, the same bytes are sent again and a nonce is used once.
CREATE TABLE transactions (
    hash        BLOB    PRIMARY KEY,
    nonce       INTEGER NOT NULL,
    purpose     TEXT    NOT NULL,         -- fulfill, finalize, payout
    raw         BLOB    NOT NULL,
    max_fee     TEXT    NOT NULL,         -- wei per gas, decimal
    gas_limit   INTEGER NOT NULL,
    state       TEXT    NOT NULL,         -- sent, mined, failed, replaced
    block       INTEGER,
    gas_used    INTEGER,
    cost        TEXT,                     -- wei, decimal
    created_at  INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX transactions_by_nonce ON transactions (nonce);

CREATE TABLE transaction_requests (
    nonce       INTEGER NOT NULL,
    id          INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    PRIMARY KEY (nonce, id, attempt)
) WITHOUT ROWID;
