//! Hands Ruby's build settings on to the compiler and the linker.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rb_sys_env::activate()?;
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("macos") {
        // The extension finds Ruby's functions in the program that loads it.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup");
    }
    Ok(())
}
