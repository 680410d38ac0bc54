-- Where in its block a request was asked: with the block it tells which attempt a later event is about.
ALTER TABLE requests ADD COLUMN position INTEGER NOT NULL DEFAULT 0;

-- Whatever is asked again and again is answered from an index, however long the history grows.
CREATE INDEX requests_by_finality ON requests (step, final_at);
CREATE INDEX requests_by_change ON requests (updated_at, id);
CREATE INDEX requests_by_block ON requests (block);
CREATE INDEX requests_by_answer ON requests (fulfilled_block) WHERE fulfilled_block IS NOT NULL;
CREATE INDEX requests_by_end ON requests (finalized_block) WHERE finalized_block IS NOT NULL;
CREATE INDEX requests_by_pay ON requests (paid) WHERE paid IS NOT NULL;
CREATE INDEX transactions_by_state ON transactions (state, nonce);
CREATE INDEX transactions_by_time ON transactions (created_at, cost);
CREATE INDEX transaction_requests_by_request ON transaction_requests (id, attempt);
