-- Everything the relayer must remember to survive a kill at any moment.

-- The one deployment that this database belongs to, and how far its events have been read.
CREATE TABLE deployment (
    one         BIGINT  PRIMARY KEY CHECK (one = 1),
    chain_id    BIGINT  NOT NULL,
    oracle      BYTEA   NOT NULL,
    next_block  BIGINT  NOT NULL          -- first block whose events have not been stored
);

-- Hashes of the last blocks read, to notice a reorganisation.
CREATE TABLE blocks (
    number      BIGINT  PRIMARY KEY,
    hash        BYTEA   NOT NULL
);

CREATE TABLE requests (
    id              BIGINT  NOT NULL,
    attempt         BIGINT  NOT NULL,     -- 0, and one more each time a result was rejected on chain
    step            TEXT    NOT NULL,     -- see Step in store/mod.rs
    request         BYTEA   NOT NULL,     -- six packed words; their hash is what the oracle holds
    model           BYTEA   NOT NULL,
    input           BYTEA   NOT NULL,
    drawn           BYTEA   NOT NULL,     -- operator that has the request to itself at first; zero for none
    exclusive_until BIGINT  NOT NULL,     -- unix seconds
    deadline        BIGINT  NOT NULL,     -- unix seconds
    block           BIGINT  NOT NULL,     -- where it was asked
    output          BYTEA,
    infer_micros    BIGINT,
    signature       BYTEA,
    fulfillment     BYTEA,                -- ABI encoding of what the oracle holds
    fulfilled_block BIGINT,               -- where it was answered, by whomever, or cancelled
    final_at        BIGINT,               -- unix seconds
    finalized_block BIGINT,
    paid            TEXT,                 -- wei, decimal
    reason          TEXT,                 -- why it was dropped
    seen_at         BIGINT  NOT NULL,     -- unix milliseconds, this machine's clock
    updated_at      BIGINT  NOT NULL,
    PRIMARY KEY (id, attempt)
);

CREATE INDEX requests_by_step ON requests (step, deadline);

-- Transactions are written here, signed, before they are sent: whatever happens, the same bytes are sent again and a nonce is used once.
CREATE TABLE transactions (
    hash        BYTEA   PRIMARY KEY,
    nonce       BIGINT  NOT NULL,
    purpose     TEXT    NOT NULL,         -- fulfill, finalize, payout
    raw         BYTEA   NOT NULL,
    max_fee     TEXT    NOT NULL,         -- wei per gas, decimal
    gas_limit   BIGINT  NOT NULL,
    state       TEXT    NOT NULL,         -- sent, mined, failed, replaced
    block       BIGINT,
    gas_used    BIGINT,
    cost        TEXT,                     -- wei, decimal
    created_at  BIGINT  NOT NULL
);

CREATE INDEX transactions_by_nonce ON transactions (nonce);

CREATE TABLE transaction_requests (
    nonce       BIGINT  NOT NULL,
    id          BIGINT  NOT NULL,
    attempt     BIGINT  NOT NULL,
    PRIMARY KEY (nonce, id, attempt)
);
