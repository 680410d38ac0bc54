//! The chain side: reading events in ranges of blocks, and owning the account's transactions.

mod due;
mod rpc;
mod sender;
mod watcher;

pub use rpc::{ANSWER_WITHIN, ConnectError, Head, Rpc, RpcClient};
pub(crate) use sender::TIP;
pub use sender::{GasLimits, SendError, Sender, Sent};
pub(crate) use watcher::range;
pub use watcher::{Look, WatchError, WatchSettings, Watcher};
