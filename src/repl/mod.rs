//! The shell: lines from a terminal, until a semicolon makes them a statement.

mod commands;
mod complete;
mod history;
mod words;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Editor};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use self::commands::Command;
use self::complete::ShellHelper;
use self::words::Words;
use crate::cli::Failure;
use crate::client::Client;
use crate::output::{Format, OutputError};
use crate::shell::{self, Display, Interrupts, RunError, Summary, report, statements};

/// Rows of one result that the shell prints unless told otherwise.
pub const MAX_ROWS: usize = 10_000;

/// The longest that leaving waits for look-ups of words.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// How a shell starts.
pub struct Options {
    /// Print how long each statement took.
    pub timing: bool,
    /// The server's URL, for the greeting.
    pub server: Option<String>,
}

/// A shell on a terminal.
pub struct Repl {
    client: Arc<Client>,
    display: Display,
    interrupts: Interrupts,
    options: Options,
    words: Arc<Words>,
    /// Look-ups of words, beside the prompt.
    look_ups: JoinSet<()>,
    editor: Editor<ShellHelper, FileHistory>,
}

impl Repl {
    /// Prepares the terminal and the history.
    ///
    /// # Errors
    /// When standard input is not a terminal that lines can be edited on.
    pub(crate) fn new(
        client: Arc<Client>,
        display: Display,
        interrupts: Interrupts,
        options: Options,
    ) -> Result<Self, Failure> {
        let words = Arc::new(Words::default());
        let mut editor = Editor::new()?;
        editor.set_completion_type(CompletionType::List);
        editor.set_auto_add_history(true);
        editor.set_max_history_size(history::MAX_ENTRIES)?;
        editor.set_helper(Some(ShellHelper::new(words.clone())));
        Ok(Self { client, display, interrupts, options, words, look_ups: JoinSet::new(), editor })
    }

    /// Reads and runs until `\q` or Ctrl-D.
    pub(crate) fn run(mut self, runtime: &Runtime) -> Result<(), Failure> {
        let history = history::path();
        if let Some(path) = &history {
            // No history yet.
            let _ = self.editor.load_history(path);
        }
        let place = self.options.server.as_deref().unwrap_or("embedded engine");
        println!("onward {} ({place}). \\? for help, \\q to leave.", env!("CARGO_PKG_VERSION"));
        self.refresh_words(runtime);
        loop {
            match self.editor.readline("onward> ") {
                Ok(input) if input.trim().is_empty() => {}
                Ok(input) => {
                    if !self.handle(runtime, &input)? {
                        break;
                    }
                }
                // Ctrl-C on a line drops the line.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(path) = &history {
            let _ = self.editor.append_history(path);
        }
        // A server would keep the rows of an unfinished look-up for a client that is gone.
        let _ = runtime.block_on(async { tokio::time::timeout(LEAVE_WAIT, self.look_ups.join_all()).await });
        Ok(())
    }

    /// Runs what was typed; false ends the shell.
    fn handle(&mut self, runtime: &Runtime, input: &str) -> Result<bool, Failure> {
        if commands::is_command(input) {
            return self.command(runtime, input);
        }
        for statement in statements::split(input).0 {
            if !self.statement(runtime, &statement) {
                break;
            }
        }
        self.refresh_words(runtime);
        Ok(true)
    }

    /// Runs one statement; false when it failed.
    fn statement(&mut self, runtime: &Runtime, statement: &statements::Statement) -> bool {
        let running = shell::run(&self.client, &statement.text, &self.display, &mut self.interrupts);
        match runtime.block_on(running) {
            Ok(summary) => {
                self.tell(&summary);
                true
            }
            Err(error) => {
                match &error {
                    RunError::Query(error) => eprintln!("error: {}", report::describe(error, statement, None)),
                    RunError::Output(OutputError::Closed) => {}
                    RunError::Output(error) => eprintln!("error: {error}"),
                    RunError::Interrupted | RunError::Abandoned => eprintln!("{error}"),
                }
                false
            }
        }
    }

    fn tell(&self, summary: &Summary) {
        let mut notes = String::new();
        if summary.is_cut {
            notes += &format!(
                "Only the first {} rows are shown: \\maxrows 0 shows all, \\maxrows N the first N.\n",
                summary.rows
            );
        }
        if self.options.timing {
            notes += &format!("{}\n", summary.timing());
        }
        let _ = std::io::stdout().write_all(notes.as_bytes());
    }

    fn command(&mut self, runtime: &Runtime, input: &str) -> Result<bool, Failure> {
        match Command::parse(input) {
            Ok(Command::Quit) => return Ok(false),
            Ok(Command::Help) => println!("{}", commands::HELP),
            Ok(Command::Timing(wanted)) => {
                self.options.timing = wanted.unwrap_or(!self.options.timing);
                self.display.asks_cost = self.options.timing;
                println!("Timing is {}.", if self.options.timing { "on" } else { "off" });
            }
            Ok(Command::Expanded(wanted)) => {
                let is_expanded = wanted.unwrap_or(self.display.format != Format::Vertical);
                self.display.format = if is_expanded { Format::Vertical } else { Format::Table };
                println!("Expanded display is {}.", if is_expanded { "on" } else { "off" });
            }
            Ok(Command::Format(format)) => self.display.format = format,
            Ok(Command::MaxRows(max_rows)) => self.display.max_rows = max_rows,
            Ok(Command::Query(sql)) => {
                let statement = statements::Statement { text: sql, line: 1, column: 1 };
                self.statement(runtime, &statement);
            }
            Ok(Command::Include(path)) => match std::fs::read_to_string(&path) {
                Ok(text) => drop(self.handle(runtime, &text)?),
                Err(error) => eprintln!("error: cannot read {path}: {error}"),
            },
            Err(message) => eprintln!("error: {message}"),
        }
        Ok(true)
    }

    /// Looks up names for completion, beside the prompt: the first look-up starts the engine.
    fn refresh_words(&mut self, runtime: &Runtime) {
        let (words, client) = (self.words.clone(), self.client.clone());
        while self.look_ups.try_join_next().is_some() {}
        self.look_ups.spawn_on(async move { words.refresh(&client).await }, runtime.handle());
    }
}
