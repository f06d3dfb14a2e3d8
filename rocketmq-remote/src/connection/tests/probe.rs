//! A writer that is watched, and may be slow.

use super::*;

/// A writer that counts its writes and may take few bytes at a time, or only one slice.
pub(super) struct Probe<W> {
    pub(super) writer: W,
    pub(super) writes: Arc<AtomicUsize>,
    pub(super) most: usize,
    pub(super) vectored: bool,
    pub(super) shuts_down: bool,
}

impl<W> Probe<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, writes: Arc::default(), most: usize::MAX, vectored: true, shuts_down: true }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Probe<W> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(self.most)];
        let written = ready!(Pin::new(&mut self.writer).poll_write(context, bytes));
        self.writes.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.vectored {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(context, first);
        }
        let mut together = Vec::new();
        for slice in slices {
            together.extend_from_slice(&slice[..slice.len().min(self.most - together.len())]);
        }
        self.poll_write(context, &together)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shuts_down {
            true => Pin::new(&mut self.writer).poll_shutdown(context),
            false => Poll::Pending,
        }
    }
}

pub(super) fn over<W: AsyncWrite + Unpin + Send + 'static>(reader: ReadHalf<DuplexStream>, writer: W) -> Connection {
    Connection::start("peer:1".into(), None, reader, writer, ConnectionOptions::default(), Processors::new())
}
