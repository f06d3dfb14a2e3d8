use bytes::Bytes;
use rocketmq_remote::request;
use std::sync::Arc;

request! {
    END_TRANSACTION(()) -> ();
    /// Commits or rolls back a half message; one-way. Java: `EndTransactionRequestHeader`.
    pub struct EndTransaction {
        /// The topic of the message.
        topic: Option<Arc<str>> = "topic",
        /// The group that sent it.
        producer_group: Arc<str> = "producerGroup",
        /// Its offset in the queue of half messages; as the receipt, or the check, has it.
        tran_state_table_offset: i64 = "tranStateTableOffset",
        /// Its place in the commit log; as the receipt, or the check, has it.
        commit_log_offset: i64 = "commitLogOffset",
        /// `TRANSACTION_COMMIT`, `TRANSACTION_ROLLBACK` of [`sys_flag`](super::sys_flag), or 0 for unknown.
        commit_or_rollback: i32 = "commitOrRollback",
        /// Whether this answers a check.
        from_transaction_check: Option<bool> = "fromTransactionCheck",
        /// Its unique id.
        message_id: String = "msgId",
        /// Its transaction id: the unique id.
        transaction_id: Option<String> = "transactionId",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}

request! {
    CHECK_TRANSACTION_STATE(Bytes) -> ();
    /// From the broker, one-way: what became of this half message? The body is the stored message. Java:
    /// `CheckTransactionStateRequestHeader`.
    ///
    /// Both offsets change with every check, since the broker appends the half message anew each time.
    pub struct CheckTransactionState {
        /// The topic of half messages, not the message's own.
        topic: Option<Arc<str>> = "topic",
        /// To be answered with.
        tran_state_table_offset: i64 = "tranStateTableOffset",
        /// To be answered with.
        commit_log_offset: i64 = "commitLogOffset",
        /// The unique id.
        message_id: Option<String> = "msgId",
        /// The transaction id.
        transaction_id: Option<String> = "transactionId",
        /// The offset id.
        offset_message_id: Option<String> = "offsetMsgId",
        /// The broker's name.
        broker_name: Option<Arc<str>> = "bname",
    }
}
