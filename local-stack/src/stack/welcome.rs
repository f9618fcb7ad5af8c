//! The text that `cargo run` prints when everything has started.

use std::{fmt, net::SocketAddr, path::Path};

use super::admin::{AdminPassword, NAME, VARIABLE};
use crate::local_aws::{ACCESS_KEY, REGION, SECRET_KEY};

/// The addresses and the commands to try. `Display` is the text.
pub(super) struct Welcome<'a> {
    pub(super) api: SocketAddr,
    pub(super) s3: SocketAddr,
    /// The URL of the Runtime API, with its secret path.
    pub(super) lambda_url: &'a str,
    pub(super) bucket: &'a str,
    pub(super) data_dir: &'a Path,
    /// The command that connects to Postgres, unless the user provides the server.
    pub(super) psql: Option<String>,
    /// What the commands contain as the API's token.
    pub(super) token: &'a str,
    /// The password of the user `admin`.
    pub(super) admin: &'a AdminPassword,
}

impl fmt::Display for Welcome<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { api, s3, lambda_url, bucket, psql, token, .. } = self;
        let (password, about) = match self.admin {
            AdminPassword::Set => ("$MRU_ADMIN_PASSWORD", format!("password: {VARIABLE}")),
            AdminPassword::New(password) => {
                (&**password, format!("password {password}, shown only now"))
            }
            AdminPassword::Earlier => {
                ("PASSWORD", format!("password of the first start; {VARIABLE} sets another"))
            }
        };
        let data_dir = self.data_dir.display();
        let psql =
            psql.as_ref().map_or_else(String::new, |psql| format!("\n  Postgres      {psql}"));
        write!(
            formatter,
            "\nmovies-r-us is running. Ctrl-C stops all of it; its data stays in {data_dir}.\n\n  \
             API           http://{api}/\n  \
             Sign in as    {NAME}, {about}\n  \
             S3 endpoint   http://{s3}/{bucket}   (access key {ACCESS_KEY}, secret {SECRET_KEY})\n  \
             Dead letters  {lambda_url}/dead-letters\n  \
             Redrive them  curl -X POST {lambda_url}/dead-letters/redrive{psql}\n\nTry:\n\n  \
             curl 'http://{api}/movies?actor=chaplin&genre=comedy&sort=year&limit=3'\n\n  \
             echo '{{\"title\":\"My Movie\",\"year\":2026}}' > my.json\n  \
             AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY} AWS_REGION={REGION} \\\n    \
             aws --endpoint-url http://{s3} s3 cp my.json s3://{bucket}/my.json\n\n  \
             curl -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' \\\n    \
             -d '{{\"title\":\"Another Movie\",\"year\":2026}}' http://{api}/movies\n\n  \
             curl -H 'Content-Type: application/json' \\\n    \
             -d '{{\"name\":\"{NAME}\",\"password\":\"'\"{password}\"'\"}}' http://{api}/auth/login\n"
        )
    }
}
