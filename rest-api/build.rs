//! Rebuilds the crate when a migration is added: the macro that embeds them cannot ask for it. Unpacks the viewer
//! of `/docs`.

use std::{env, error::Error, fs::File, io, path::Path};

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

/// The files of the viewer that `src/http/docs.rs` embeds.
const VIEWER: [&str; 2] = ["swagger-ui-bundle.js", "swagger-ui.css"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=migrations");
    let out = env::var("OUT_DIR")?;
    let mut archive = ZipArchive::new(io::Cursor::new(SWAGGER_UI_VENDORED))?;
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        let path = file.name()?.into_owned();
        // The first folder has the version in its name.
        let name = path.split_once("/dist/").map_or("", |(_, name)| name);
        if VIEWER.contains(&name) {
            io::copy(&mut file, &mut File::create(Path::new(&out).join(name))?)?;
        }
    }
    Ok(())
}
