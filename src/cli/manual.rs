//! What is made of the command's own definition: completions for shells, and the manual page.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Command, ValueEnum};
use clap_complete::aot;
use clap_mangen::Man;

pub(super) const EXAMPLES: &str = "\
Examples:
  sidekiq-lifecycle completions bash > /etc/bash_completion.d/sidekiq-lifecycle
  sidekiq-lifecycle completions zsh > /usr/local/share/zsh/site-functions/_sidekiq-lifecycle
  sidekiq-lifecycle completions fish > ~/.config/fish/completions/sidekiq-lifecycle.fish";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints what a shell reads to complete this command.
pub(super) fn completions(out: &mut impl Write, shell: Shell, mut command: Command) -> io::Result<ExitCode> {
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let name = command.get_name().to_owned();
    // It would panic where it cannot write.
    let mut script = Vec::new();
    aot::generate(shell, &mut command, name, &mut script);
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints sidekiq-lifecycle(1): one page in which every subcommand is a section.
pub(super) fn page(out: &mut impl Write, mut command: Command) -> io::Result<ExitCode> {
    command.build();
    let subcommands: Vec<Command> =
        command.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect();
    let mut page = Vec::new();
    let man = Man::new(command).manual("Sidekiq's lifecycle");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    for subcommand in subcommands {
        let mut section = Vec::new();
        let title = subcommand.get_name().to_uppercase();
        let has_help = subcommand.get_after_help().is_some() || subcommand.get_after_long_help().is_some();
        let man = Man::new(subcommand);
        man.render_description_section(&mut section)?;
        man.render_synopsis_section(&mut section)?;
        man.render_options_section(&mut section)?;
        if has_help {
            section.extend_from_slice(&as_typed(&man)?);
        }
        // Its sections are a level below ours, and its first one needs no heading of its own.
        let section = String::from_utf8_lossy(&section).replace(".SH DESCRIPTION\n", "");
        write!(page, ".SH {title}\n{}", section.replace("\n.SH ", "\n.SS "))?;
    }
    page.extend_from_slice(&as_typed(&man)?);
    out.write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// The text after a command's options, its lines as they are: commands are not to be filled or hyphenated.
fn as_typed(man: &Man) -> io::Result<Vec<u8>> {
    let mut section = Vec::new();
    man.render_extra_section(&mut section)?;
    let section = String::from_utf8_lossy(&section).replace(".SH EXTRA\n", ".SH EXAMPLES\n.nf\n");
    let section = section.replace(".nf\nExamples:\n", ".nf\n");
    Ok(format!("{section}.fi\n").into_bytes())
}
