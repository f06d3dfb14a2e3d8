//! Every request a client makes, beside its reply, one file a subject. No I/O.
//!
//! Each field's wire name stands here as a literal and nowhere else. Java: the `…RequestHeader` and
//! `…ResponseHeader` classes named at each declaration; witness: the goldens under `tests/goldens`.

mod assignment;
mod fastjson;
mod group;
mod heartbeat;
mod lenient;
mod lock;
mod message;
mod offset;
mod operator;
mod pop;
mod queue_table;
mod reply;
mod route;
mod transaction;

pub use assignment::{
    Assignment, Assignments, MemberOfGroup, QueryAssignment, RequestMode, RequestModeOfGroup, SetRequestMode,
};
pub use group::{
    ConsumerConnection, ConsumerConnections, ConsumerIds, GetConsumerConnections, GetConsumerList, KnownSubscription,
    NotifyConsumerIdsChanged,
};
pub use heartbeat::{
    CheckClientConfig, ClientConfigToCheck, ConsumeFrom, ConsumeType, ConsumerData, ExpressionType, Heartbeat,
    HeartbeatData, MessageModel, ProducerData, SubscriptionData, UnregisterClient,
};
pub use lenient::LenientJson;
pub use lock::{LockQueues, LockedQueues, QueueName, QueuesOfMember, UnlockQueues};
pub use message::{
    PullMessage, PullResult, PullSysFlag, RecallMessage, Recalled, SendBack, SendBatchMessage, SendMessage, Stored,
    sys_flag,
};
pub use offset::{
    GetMaxOffset, GetMinOffset, GroupOffset, Offset, QueryConsumerOffset, SearchOffset, UpdateConsumerOffset,
};
pub use operator::{
    ClientStatus, ConsumeDirectly, ConsumeStatus, ConsumedDirectly, DirectResult, GetClientStatus, GetGroupStatus,
    GetRunningInfo, OffsetTable, PopQueueInfo, QueueInfo, ResetClientOffset, ResetOffset, RunningInfo, prop,
};
pub use pop::{
    AckMessage, BadOffsets, BatchAck, BatchAckMessage, BatchAcks, ChangeInvisibleTime, Hidden, Notice, Notification,
    OffsetBits, PopHead, PopMessage, Popped,
};
pub use queue_table::QueueTable;
pub use reply::{PushReply, SendReply};
pub use route::{BrokerData, GetRoute, MASTER_ID, Permission, QueueData, QueueMapping, TopicRouteData};
pub use transaction::{CheckTransactionState, EndTransaction};

#[cfg(test)]
mod golden;
