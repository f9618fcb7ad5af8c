//! The service as a process of its own.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use crate::service::{Service, TOKEN};

/// `rest-api serve` as a process, which does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    /// Serves the database and the bucket of `around`, with what `adjust` changes in its
    /// environment. It listens on a port that nobody knows.
    pub(crate) fn serve(
        around: &Service,
        adjust: impl FnOnce(&mut BTreeMap<&'static str, String>),
    ) -> Self {
        let mut environment = BTreeMap::from([
            ("AWS_REGION", "eu-west-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", local_stack::s3::ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", local_stack::s3::SECRET_KEY.to_owned()),
            ("AWS_ENDPOINT_URL_S3", format!("http://{}", around.s3_address)),
            ("MRU_DB_HOST", around.database.host.clone()),
            ("MRU_DB_USER", local_stack::postgres::USER.to_owned()),
            ("MRU_DB_PASS", "any".to_owned()),
            ("MRU_DB_NAME", around.database.name.clone()),
            ("MRU_DB_TLS", "disable".to_owned()),
            ("MRU_API_TOKEN", TOKEN.to_owned()),
            ("MRU_LISTEN", "127.0.0.1:0".to_owned()),
            ("MRU_LOG", "warn".to_owned()),
        ]);
        adjust(&mut environment);
        let mut serve = Command::new(env!("CARGO_BIN_EXE_rest-api"));
        serve.arg("serve").env_clear().envs(environment).stdin(Stdio::null());
        Self(serve.spawn().unwrap())
    }

    /// The same, with the database and the bucket behind these proxies.
    pub(crate) fn serve_behind(around: &Service, database: SocketAddr, bucket: SocketAddr) -> Self {
        Self::serve(around, |environment| {
            environment.insert("MRU_DB_HOST", database.ip().to_string());
            environment.insert("MRU_DB_PORT", database.port().to_string());
            environment.insert("AWS_ENDPOINT_URL_S3", format!("http://{bucket}"));
            environment.insert("MRU_WORKERS", "1".to_owned());
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends SIGKILL, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
