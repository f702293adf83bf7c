//! Where results go.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::OutputError;

/// Standard output or a file; clones write to the same place.
///
/// It remembers its first error, because formats turn errors into text on their way up. A regular file takes its name
/// only in [`Target::commit`]: a run that fails leaves what was there before.
#[derive(Clone)]
pub struct Target(Arc<Mutex<Inner>>);

struct Inner {
    sink: Sink,
    error: Option<io::Error>,
    is_used: bool,
}

enum Sink {
    Stdout(BufWriter<Stdout>),
    File {
        writer: BufWriter<File>,
        path: PathBuf,
        partial: Option<PathBuf>,
    },
    #[cfg(test)]
    Memory(Vec<u8>),
}

/// Bytes gathered before the operating system is asked to write.
const BUFFER_BYTES: usize = 64 << 10;

impl Target {
    fn new(sink: Sink) -> Self {
        Self(Arc::new(Mutex::new(Inner { sink, error: None, is_used: false })))
    }

    /// Standard output.
    pub fn stdout() -> Self {
        Self::new(Sink::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout())))
    }

    #[cfg(test)]
    pub(super) fn memory() -> Self {
        Self::new(Sink::Memory(Vec::new()))
    }

    #[cfg(test)]
    pub(super) fn into_memory(self) -> Vec<u8> {
        match &mut self.lock().sink {
            Sink::Memory(bytes) => std::mem::take(bytes),
            _ => Vec::new(),
        }
    }

    /// A file; a pipe or device of that name is written as it is.
    ///
    /// # Errors
    /// [`OutputError::Write`] when it cannot be made.
    pub fn file(path: &Path) -> Result<Self, OutputError> {
        let failed = |source| OutputError::Write { target: path.display().to_string(), source };
        let is_special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
        let partial = if is_special { None } else { Some(partial_name(path)) };
        let file = match &partial {
            None => OpenOptions::new().write(true).open(path),
            Some(partial) => File::create(partial),
        };
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file.map_err(failed)?);
        Ok(Self::new(Sink::File { writer, path: path.to_owned(), partial }))
    }

    /// Bytes go to a terminal.
    pub fn is_terminal(&self) -> bool {
        matches!(&self.lock().sink, Sink::Stdout(_)) && io::stdout().is_terminal()
    }

    /// Flushes, and gives a file its name.
    ///
    /// # Errors
    /// [`OutputError::Write`], [`OutputError::Closed`].
    pub fn commit(&self) -> Result<(), OutputError> {
        (&mut &*self).flush().map_err(|error| self.describe(error))?;
        let mut inner = self.lock();
        if let Sink::File { path, partial, .. } = &mut inner.sink
            && let Some(from) = partial.take()
        {
            std::fs::rename(&from, &*path)
                .map_err(|source| OutputError::Write { target: path.display().to_string(), source })?;
        }
        Ok(())
    }

    /// The first error of writing, if there was one.
    pub(super) fn take_error(&self) -> Option<OutputError> {
        let error = self.lock().error.take()?;
        Some(self.describe(error))
    }

    /// For formats of one result per file.
    pub(super) fn claim(&self) -> Result<(), OutputError> {
        let mut inner = self.lock();
        let path = match &inner.sink {
            Sink::File { path, .. } => path.clone(),
            _ => PathBuf::from("standard output"),
        };
        if std::mem::replace(&mut inner.is_used, true) { Err(OutputError::SecondResult(path)) } else { Ok(()) }
    }

    pub(crate) fn describe(&self, source: io::Error) -> OutputError {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return OutputError::Closed;
        }
        let target = match &self.lock().sink {
            Sink::File { path, .. } => path.display().to_string(),
            _ => "standard output".to_owned(),
        };
        OutputError::Write { target, source }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn attempt<T>(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> io::Result<T> {
        let result = match &mut self.sink {
            Sink::Stdout(writer) => write(writer),
            Sink::File { writer, .. } => write(writer),
            #[cfg(test)]
            Sink::Memory(bytes) => write(bytes),
        };
        result.map_err(|error| {
            let same = io::Error::from(error.kind());
            self.error.get_or_insert(error);
            same
        })
    }
}

impl Write for &Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().attempt(|writer| writer.write(bytes))
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lock().attempt(|writer| writer.write_all(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().attempt(|writer| writer.flush())
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self).write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Self::File { partial: Some(partial), .. } = self {
            let _ = std::fs::remove_file(partial);
        }
    }
}

/// A name in the same directory, so that the rename stays on one file system.
fn partial_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}
