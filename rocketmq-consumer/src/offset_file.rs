use rocketmq_common::{MessageQueue, json::from_lenient_slice, protocol::QueueName};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

/// How far a broadcast consumer is in each queue, in a local file.
///
/// # Protocol
/// Java: `LocalFileOffsetStore`, the same place and the same format. Unlike there the file is replaced in one step, so
/// that it is whole at any time.
#[derive(Debug)]
pub(crate) struct OffsetFile {
    path: PathBuf,
    /// The topics that the file had offsets of when it was opened.
    topics: BTreeSet<Arc<str>>,
    table: Mutex<Table>,
    /// Held by the one who writes.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    offsets: BTreeMap<MessageQueue, i64>,
    is_dirty: bool,
    /// Whether the file can be read: only then it is worth a backup.
    is_readable: bool,
}

/// Why the file of a broadcast consumer's offsets cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot use the offset file {}", path.display())]
pub struct OffsetFileError {
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    pub source: Arc<io::Error>,
}

impl OffsetFile {
    /// The file of a client and a group under `folder`, else at Java's default place.
    pub(crate) fn open(folder: Option<&Path>, client_id: &str, group: &str) -> Result<Self, OffsetFileError> {
        let folder = folder.map_or_else(default_folder, Path::to_owned);
        let path = folder.join(client_id).join(group).join("offsets.json");
        let table = match load(&path) {
            Ok(table) => table,
            Err(source) => return Err(OffsetFileError { path, source: Arc::new(source) }),
        };
        let topics = table.offsets.keys().map(|queue| queue.topic.clone()).collect();
        Ok(Self { path, topics, table: Mutex::new(table), writing: tokio::sync::Mutex::default() })
    }

    /// Whether the file had offsets of a topic when it was opened.
    pub(crate) fn knew_topic(&self, topic: &str) -> bool {
        self.topics.contains(topic)
    }

    pub(crate) fn get(&self, queue: &MessageQueue) -> Option<i64> {
        self.table().offsets.get(queue).copied()
    }

    pub(crate) fn set(&self, queue: &MessageQueue, offset: i64) {
        let mut table = self.table();
        if table.offsets.insert(queue.clone(), offset) != Some(offset) {
            table.is_dirty = true;
        }
    }

    /// Writes what has changed since it was last written.
    pub(crate) async fn save(self: &Arc<Self>) -> Result<(), OffsetFileError> {
        let _writing = self.writing.lock().await;
        let (text, keep_backup) = {
            let mut table = self.table();
            if !table.is_dirty {
                return Ok(());
            }
            table.is_dirty = false;
            (text(&table.offsets), table.is_readable)
        };
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &text, keep_backup)).await;
        let written = written.unwrap_or_else(|end| Err(io::Error::other(end)));
        let mut table = self.table();
        match written {
            Ok(()) => table.is_readable = true,
            Err(_) => table.is_dirty = true,
        }
        drop(table);
        written.map_err(|source| OffsetFileError { path: self.path.clone(), source: Arc::new(source) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Reads the file, else its backup; neither of them being there is a beginning.
fn load(path: &Path) -> io::Result<Table> {
    let problem = match read(path) {
        Ok(Some(offsets)) => return Ok(Table { offsets, is_readable: true, ..Table::default() }),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    let backup = backup_of(path);
    match (read(&backup), problem) {
        (Ok(Some(offsets)), problem) => {
            if let Some(problem) = problem {
                tracing::error!(
                    path = %path.display(), error = &problem as &dyn std::error::Error,
                    "the offset file is corrupt: going on from its backup"
                );
            }
            Ok(Table { offsets, is_dirty: true, is_readable: false })
        }
        (Ok(None), None) => Ok(Table::default()),
        (Err(problem), None) | (_, Some(problem)) => Err(problem),
    }
}

/// The offsets in a file; `None` where there is none, or an empty one.
fn read(path: &Path) -> io::Result<Option<BTreeMap<MessageQueue, i64>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) if bytes.trim_ascii().is_empty() => return Ok(None),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let invalid = |error| io::Error::new(ErrorKind::InvalidData, error);
    let file: FileText = from_lenient_slice(&bytes).map_err(invalid)?;
    let mut offsets = BTreeMap::new();
    for (queue, offset) in file.offset_table {
        let queue: QueueName = serde_json::from_str(&queue).map_err(invalid)?;
        offsets.insert(queue.into(), offset);
    }
    Ok(Some(offsets))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileText {
    offset_table: BTreeMap<String, i64>,
}

/// As Java writes it: the keys are objects, which is no JSON.
fn text(offsets: &BTreeMap<MessageQueue, i64>) -> String {
    let mut text = "{\n\t\"offsetTable\":{".to_owned();
    for (index, (queue, offset)) in offsets.iter().enumerate() {
        let key = serde_json::to_string(&QueueName::from(queue)).unwrap_or_default();
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}\n\t\t{key}:{offset}");
    }
    text.push_str("\n\t}\n}\n");
    text
}

fn write(path: &Path, text: &str, keep_backup: bool) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if keep_backup && path.exists() {
        let next = path.with_extension("json.bak.tmp");
        fs::copy(path, &next)?;
        fs::rename(next, backup_of(path))?;
    }
    let next = path.with_extension("json.tmp");
    let mut file = File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(next, path)
}

fn backup_of(path: &Path) -> PathBuf {
    path.with_extension("json.bak")
}

/// `.rocketmq_offsets` in the home directory, or in the current one where there is no home.
fn default_folder() -> PathBuf {
    let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"));
    home.map(PathBuf::from).unwrap_or_default().join(".rocketmq_offsets")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(id: i32) -> MessageQueue {
        MessageQueue::new("t", "broker-a", id)
    }

    fn open(folder: &Path) -> Result<Arc<OffsetFile>, OffsetFileError> {
        OffsetFile::open(Some(folder), "127.0.0.1@DEFAULT", "g").map(Arc::new)
    }

    /// Files as they are in a folder.
    fn path(folder: &Path) -> PathBuf {
        folder.join("127.0.0.1@DEFAULT/g/offsets.json")
    }

    #[tokio::test]
    async fn offsets_survive() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(folder.path()).unwrap();
        assert_eq!(file.get(&queue(0)), None);
        file.set(&queue(0), 7);
        file.set(&queue(3), 9);
        file.save().await.unwrap();
        let file = open(folder.path()).unwrap();
        assert_eq!((file.get(&queue(0)), file.get(&queue(3))), (Some(7), Some(9)));
        assert!(file.knew_topic("t") && !file.knew_topic("u"));
        let text = fs::read_to_string(path(folder.path())).unwrap();
        assert!(text.contains(r#"{"brokerName":"broker-a","queueId":3,"topic":"t"}:9"#), "{text}");
    }

    #[tokio::test]
    async fn files_of_java_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pretty = "{\n\t\"offsetTable\":{{\n\t\t\t\"brokerName\":\"broker-a\",\n\t\t\t\"queueId\":3,\n\t\t\t\"topic\":\"t\"\n\t\t}:7\n\t}\n}";
        for text in [pretty, r#"{"offsetTable":{{"brokerName":"broker-a","queueId":3,"topic":"t"}:7}}"#] {
            fs::write(&path, text).unwrap();
            assert_eq!(open(folder.path()).unwrap().get(&queue(3)), Some(7), "{text}");
        }
    }

    #[tokio::test]
    async fn a_corrupt_file_falls_back_to_its_backup() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(folder.path()).unwrap();
        for offset in [7, 8] {
            file.set(&queue(0), offset);
            file.save().await.unwrap();
        }
        for corrupt in ["{\"offsetTable\":{", ""] {
            fs::write(path(folder.path()), corrupt).unwrap();
            let file = open(folder.path()).unwrap();
            assert_eq!(file.get(&queue(0)), Some(7), "{corrupt}");
        }
        // The backup is not replaced by what is corrupt.
        let file = open(folder.path()).unwrap();
        file.set(&queue(0), 9);
        file.save().await.unwrap();
        assert_eq!(read(&backup_of(&path(folder.path()))).unwrap().unwrap()[&queue(0)], 7);
        assert_eq!(open(folder.path()).unwrap().get(&queue(0)), Some(9));
        fs::write(path(folder.path()), "{").unwrap();
        fs::write(backup_of(&path(folder.path())), "{").unwrap();
        assert!(open(folder.path()).is_err());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_an_error_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(folder.path()).unwrap();
        fs::write(folder.path().join("127.0.0.1@DEFAULT"), "in the way").unwrap();
        file.set(&queue(0), 7);
        assert!(file.save().await.is_err());
        assert_eq!(file.get(&queue(0)), Some(7));
        fs::remove_file(folder.path().join("127.0.0.1@DEFAULT")).unwrap();
        file.save().await.unwrap();
        assert_eq!(open(folder.path()).unwrap().get(&queue(0)), Some(7));
    }
}
