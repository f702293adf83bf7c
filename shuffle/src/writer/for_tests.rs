//! Doors for tests that compare the two paths.

use datafusion::arrow::array::RecordBatch;
use onward_segment::{Region, Writer};

use super::assign::{Assignment, group};
use super::encode::Encoded;
use super::measure::measure;
use super::scatter::Scatter;
use super::window::Window;

/// One of the two ways from a window to messages.
#[derive(Clone, Copy, Debug)]
pub enum Paths {
    Fast,
    General,
}

/// Writes `batches`, whose rows go to `targets` (none = all rows to partition 1, in order). `None` when the path cannot.
pub fn write<R: Region>(
    path: Paths,
    batches: &[RecordBatch],
    targets: &[Vec<u32>],
    batch_rows: usize,
    writer: &mut Writer<R>,
) -> Option<()> {
    let schema = writer.schema().clone();
    let window = window_of(batches, targets);
    match path {
        Paths::Fast => Scatter::plan(&window, &schema, batch_rows).unwrap()?.write(0, writer).unwrap(),
        Paths::General => Encoded::new(&window, &schema, batch_rows).unwrap().write(0, writer).unwrap(),
    };
    Some(())
}

fn window_of(batches: &[RecordBatch], targets: &[Vec<u32>]) -> Window {
    let mut window = Window::default();
    for (batch, targets) in batches.iter().zip(targets) {
        let (assignment, measured) = match targets.is_empty() {
            true => Assignment::whole(1, batch),
            false => {
                let assignment = group(targets, &mut [0; 5]);
                let measured = measure(batch, targets, &assignment.groups, &mut [0; 5]);
                (assignment, measured)
            }
        };
        window.push(batch.clone(), assignment, measured);
    }
    window
}
