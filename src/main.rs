//! The `onward` binary: everything it can do is in [`onward::cli`].

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    onward::cli::main()
}
