//! The program as an example: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tower_openai_proxy_server::main()
}
