//! Transactions, stored signed before they are sent.

use super::{Step, Store, StoreError, hash, now_millis, signed, unsigned};
use alloy::primitives::{B256, Bytes, U256};
use sqlx::{Row, any::AnyRow};
use std::fmt;

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Posts results.
    Fulfill,
    /// Settles results.
    Finalize,
    /// Takes credit out.
    Payout,
    /// A challenge, a move of a dispute, or what ends one.
    Dispute,
    /// Nothing: takes the nonce of one for which nothing is left to do.
    Cancel,
}

impl Purpose {
    /// Name in the database and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fulfill => "fulfill",
            Self::Finalize => "finalize",
            Self::Payout => "payout",
            Self::Dispute => "dispute",
            Self::Cancel => "cancel",
        }
    }

    fn parse(name: &str) -> Result<Self, StoreError> {
        [Self::Fulfill, Self::Finalize, Self::Payout, Self::Dispute, Self::Cancel]
            .into_iter()
            .find(|purpose| purpose.name() == name)
            .ok_or_else(|| StoreError::Damaged(format!("unknown purpose `{name}`")))
    }

    /// Step of the requests that such a transaction takes up, and the step it brings them to.
    fn steps(self) -> Option<(Step, Step)> {
        match self {
            Self::Fulfill => Some((Step::Signed, Step::Posting)),
            Self::Finalize => Some((Step::Posted, Step::Finalizing)),
            Self::Payout | Self::Dispute | Self::Cancel => None,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionState {
    /// In a block, and it worked.
    Mined,
    /// In a block, and it reverted.
    Failed,
    /// Another transaction used its nonce.
    Replaced,
}

impl TransactionState {
    fn name(self) -> &'static str {
        match self {
            Self::Mined => "mined",
            Self::Failed => "failed",
            Self::Replaced => "replaced",
        }
    }
}

/// A signed transaction whose outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentTransaction {
    /// Its hash.
    pub hash: B256,
    /// Its nonce.
    pub nonce: u64,
    /// What it is for.
    pub purpose: Purpose,
    /// EIP-2718 encoding, signed.
    pub raw: Bytes,
    /// Wei per gas that it pays at most.
    pub max_fee: u128,
    /// Gas limit.
    pub gas_limit: u64,
}

impl SentTransaction {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            hash: hash(row.try_get("hash")?)?,
            nonce: unsigned(row.try_get("nonce")?)?,
            purpose: Purpose::parse(row.try_get("purpose")?)?,
            raw: row.try_get::<Vec<u8>, _>("raw")?.into(),
            max_fee: row.try_get::<String, _>("max_fee")?.parse().map_err(|_| StoreError::Damaged("max_fee".into()))?,
            gas_limit: unsigned(row.try_get("gas_limit")?)?,
        })
    }
}

impl Store {
    /// Stores a signed transaction and moves the requests it carries to their step, at once. After this it may be sent. Signing is deterministic, so
    /// after a reorganisation the very same bytes can be signed again: they are in flight again then. Events may have come while it was made: a request
    /// that they have brought further, or back, stays where they have brought it. Others of the nonce that were in a block are in none any more, or the nonce
    /// would not be free: they are in flight again too, since nodes may still have them. Gives their hashes.
    pub async fn sending(&self, sent: &SentTransaction, requests: &[(u64, u32)]) -> Result<Vec<B256>, StoreError> {
        let mut transaction = self.begin_as_submitter().await?;
        sqlx::query(
            "INSERT INTO transactions (hash, nonce, purpose, raw, max_fee, gas_limit, state, created_at) VALUES ($1, $2, $3, $4, $5, $6, 'sent', $7)
             ON CONFLICT (hash) DO UPDATE SET state = 'sent', block = NULL, gas_used = NULL, cost = NULL",
        )
        .bind(sent.hash.to_vec())
        .bind(signed(sent.nonce)?)
        .bind(sent.purpose.name())
        .bind(sent.raw.to_vec())
        .bind(sent.max_fee.to_string())
        .bind(signed(sent.gas_limit)?)
        .bind(now_millis())
        .execute(&mut *transaction)
        .await?;
        let reopened = sqlx::query(
            "UPDATE transactions SET state = 'sent', block = NULL, gas_used = NULL, cost = NULL WHERE nonce = $1 AND state <> 'sent' RETURNING hash",
        );
        let reopened = reopened.bind(signed(sent.nonce)?).fetch_all(&mut *transaction).await?;
        for (id, attempt) in requests {
            sqlx::query(
                "INSERT INTO transaction_requests (nonce, id, attempt) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            )
            .bind(signed(sent.nonce)?)
            .bind(signed(*id)?)
            .bind(i64::from(*attempt))
            .execute(&mut *transaction)
            .await?;
            if let Some((from, to)) = sent.purpose.steps() {
                sqlx::query(
                    "UPDATE requests SET step = $1, updated_at = $2 WHERE id = $3 AND attempt = $4 AND step = $5",
                )
                .bind(to.name())
                .bind(now_millis())
                .bind(signed(*id)?)
                .bind(i64::from(*attempt))
                .bind(from.name())
                .execute(&mut *transaction)
                .await?;
            }
        }
        transaction.commit().await?;
        reopened.iter().map(|row| hash(row.try_get(0)?)).collect()
    }

    /// Transactions whose outcome is not known, lowest nonce first; replacements of one nonce from cheap to dear, which is the order they were made in.
    pub async fn unresolved(&self) -> Result<Vec<SentTransaction>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM transactions WHERE state = 'sent' ORDER BY nonce, length(max_fee), max_fee")
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(SentTransaction::read).collect()
    }

    /// Requests in transactions that ended without doing their work, as far as the blocks read tell: reverted, replaced, taken back by a
    /// reorganisation, or with this item skipped. One in flight or in a block that is not read yet may still do it.
    pub async fn stranded(&self, limit: u32) -> Result<Vec<(Step, (u64, u32))>, StoreError> {
        let rows = sqlx::query(
            "SELECT step, id, attempt FROM requests WHERE step IN ('posting', 'finalizing') AND NOT EXISTS (
                SELECT 1 FROM transaction_requests AS carried
                WHERE carried.id = requests.id AND carried.attempt = requests.attempt AND EXISTS (
                    SELECT 1 FROM transactions WHERE transactions.nonce = carried.nonce AND (state = 'sent'
                        OR (state = 'mined' AND block >= (SELECT next_block FROM deployment)))))
             LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let damaged = |_| StoreError::Damaged("attempt".into());
        rows.iter()
            .map(|row| {
                let attempt = u32::try_from(row.try_get::<i64, _>(2)?).map_err(damaged)?;
                Ok((Step::parse(row.try_get(0)?)?, (unsigned(row.try_get(1)?)?, attempt)))
            })
            .collect()
    }

    /// A nonce is used up: by the transaction `winner` of ours with this state, gas and cost in wei, or (none) by one that is not in this store.
    pub async fn resolved(
        &self,
        nonce: u64,
        winner: Option<(B256, TransactionState, u64, u64, U256)>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin_as_submitter().await?;
        sqlx::query("UPDATE transactions SET state = $1 WHERE nonce = $2 AND state = 'sent'")
            .bind(TransactionState::Replaced.name())
            .bind(signed(nonce)?)
            .execute(&mut *transaction)
            .await?;
        if let Some((hash, state, block, gas_used, cost)) = winner {
            sqlx::query("UPDATE transactions SET state = $1, block = $2, gas_used = $3, cost = $4 WHERE hash = $5")
                .bind(state.name())
                .bind(signed(block)?)
                .bind(signed(gas_used)?)
                .bind(cost.to_string())
                .bind(hash.to_vec())
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The chain has the nonces from `first` up to `end`, without that one, no more: what used them is open again. How many transactions that are.
    pub async fn reopened(&self, first: u64, end: u64) -> Result<u64, StoreError> {
        let statement = "UPDATE transactions SET state = 'sent', block = NULL, gas_used = NULL, cost = NULL
             WHERE nonce >= $1 AND nonce < $2 AND state <> 'sent'";
        let mut transaction = self.begin_as_submitter().await?;
        let changed = sqlx::query(statement).bind(signed(first)?).bind(signed(end)?).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(changed.rows_affected())
    }

    /// Requests that the transactions of a nonce carry.
    pub async fn carried_by(&self, nonce: u64) -> Result<Vec<(u64, u32)>, StoreError> {
        let rows = sqlx::query("SELECT id, attempt FROM transaction_requests WHERE nonce = $1 ORDER BY id, attempt")
            .bind(signed(nonce)?)
            .fetch_all(&self.pool)
            .await?;
        let damaged = |_| StoreError::Damaged("attempt".into());
        rows.iter()
            .map(|row| Ok((unsigned(row.try_get(0)?)?, u32::try_from(row.try_get::<i64, _>(1)?).map_err(damaged)?)))
            .collect()
    }

    /// Nonce of the last transaction that carries a request.
    pub async fn carrier_of(&self, key: (u64, u32)) -> Result<Option<u64>, StoreError> {
        let row = sqlx::query("SELECT MAX(nonce) FROM transaction_requests WHERE id = $1 AND attempt = $2")
            .bind(signed(key.0)?)
            .bind(i64::from(key.1))
            .fetch_one(&self.pool)
            .await?;
        row.try_get::<Option<i64>, _>(0)?.map(unsigned).transpose()
    }

    /// Wei spent on gas in the last 24 hours of this machine's clock.
    pub async fn spent_in_a_day(&self) -> Result<U256, StoreError> {
        self.spent_since(now_millis().saturating_sub(24 * 60 * 60 * 1000)).await
    }

    /// Wei spent on gas by transactions signed at or after `since` (unix milliseconds).
    pub async fn spent_since(&self, since: i64) -> Result<U256, StoreError> {
        let rows = sqlx::query("SELECT cost FROM transactions WHERE cost IS NOT NULL AND created_at >= $1")
            .bind(since)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().try_fold(U256::ZERO, |sum, row| {
            let wei: U256 = row.try_get::<String, _>(0)?.parse().map_err(|_| StoreError::Damaged("cost".into()))?;
            Ok(sum + wei)
        })
    }
}
