use rocketmq_common::{
    MessageQueue,
    protocol::Stored,
    remote::{Answer, ResponseCode},
};

/// How safely a message is stored. In every case it is stored. Java: `SendStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendStatus {
    /// As the broker was configured to.
    Ok,
    /// Not flushed to disk in time; lost if the broker's machine dies now.
    FlushDiskTimeout,
    /// Not confirmed by a replica in time.
    FlushSlaveTimeout,
    /// No replica is there to confirm.
    SlaveNotAvailable,
}

impl SendStatus {
    pub(crate) fn of(code: ResponseCode) -> Self {
        match code {
            ResponseCode::FLUSH_DISK_TIMEOUT => Self::FlushDiskTimeout,
            ResponseCode::FLUSH_SLAVE_TIMEOUT => Self::FlushSlaveTimeout,
            ResponseCode::SLAVE_NOT_AVAILABLE => Self::SlaveNotAvailable,
            _ => Self::Ok,
        }
    }
}

/// The broker's word that it has stored a message. Java: `SendResult`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendReceipt {
    /// How safely.
    pub status: SendStatus,
    /// The unique id, made by this client and the same in every attempt; what consumers see as the message id.
    pub message_id: String,
    /// The offset id, made by the broker.
    pub offset_id: String,
    /// The queue.
    pub queue: MessageQueue,
    /// The position in the queue. For a delayed message, that in the broker's own queue of delayed messages.
    pub queue_offset: i64,
    /// The region of the broker.
    pub region_id: String,
    /// By which a timer message can be [recalled](crate::Producer::recall); brokers from 5.3.2 on give one.
    pub recall_handle: Option<String>,
}

impl SendReceipt {
    pub(crate) fn new(message_id: String, mut queue: MessageQueue, answer: Answer<Stored>) -> Self {
        queue.queue_id = answer.header.queue_id;
        Self {
            status: SendStatus::of(answer.code),
            message_id,
            offset_id: answer.header.offset_id.unwrap_or_default(),
            queue,
            queue_offset: answer.header.queue_offset,
            region_id: region(answer.header.region_id),
            recall_handle: answer.header.recall_handle,
        }
    }
}

/// The broker's word that it has stored the messages of a batch, one after the other in one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchReceipt {
    /// How safely.
    pub status: SendStatus,
    /// The unique ids, in the order of the messages.
    pub message_ids: Vec<String>,
    /// The offset ids, in the order of the messages; fewer where the broker keeps the batch as one record.
    pub offset_ids: Vec<String>,
    /// The queue.
    pub queue: MessageQueue,
    /// The position of the first message; the others follow it.
    pub queue_offset: i64,
    /// The region of the broker.
    pub region_id: String,
}

impl BatchReceipt {
    pub(crate) fn new(message_ids: Vec<String>, mut queue: MessageQueue, answer: Answer<Stored>) -> Self {
        queue.queue_id = answer.header.queue_id;
        let offset_ids = answer.header.offset_id.unwrap_or_default();
        Self {
            status: SendStatus::of(answer.code),
            message_ids,
            offset_ids: offset_ids.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
            queue,
            queue_offset: answer.header.queue_offset,
            region_id: region(answer.header.region_id),
        }
    }

    /// A receipt for each message, in their order.
    pub fn receipts(self) -> impl Iterator<Item = SendReceipt> {
        let Self { status, message_ids, offset_ids, queue, queue_offset, region_id } = self;
        // A batch that is one record has one offset id.
        let offset_id = move |index: usize| offset_ids.get(index).or(offset_ids.last()).cloned().unwrap_or_default();
        message_ids.into_iter().zip(queue_offset..).enumerate().map(move |(index, (message_id, queue_offset))| {
            SendReceipt {
                status,
                message_id,
                offset_id: offset_id(index),
                queue: queue.clone(),
                queue_offset,
                region_id: region_id.clone(),
                recall_handle: None,
            }
        })
    }
}

/// Brokers leave the default region out, or send it empty.
fn region(id: Option<String>) -> String {
    id.filter(|id| !id.is_empty()).unwrap_or_else(|| "DefaultRegion".to_owned())
}
