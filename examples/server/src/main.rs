//! The program: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tower_openai_proxy_server::main()
}
