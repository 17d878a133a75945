//! Any bytes as a signature bundle, as the statement in one, as a certificate and as a key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orthoscope::verify::bundle::{self, Bundle, PAYLOAD_TYPE, Statement};
use orthoscope::verify::manifest::stays_inside;
use orthoscope::verify::signature::{self, FileSignatureState, PublicKey};

fn statement(bundle: &Bundle) {
    if let Ok(statement) = bundle::statement("model.sig", bundle) {
        for (name, resources) in &statement.resources {
            assert!(stays_inside(name), "{name:?} leads out of the folder");
            Statement::covered(resources);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(bundle) = bundle::parse("model.sig", bytes) {
        statement(&bundle);
        assert_ne!(signature::check(&bundle, None).state, FileSignatureState::Verified);
    }
    let _ = PublicKey::from_pem("key.pem", bytes);
    let bundle = Bundle {
        payload_type: PAYLOAD_TYPE.to_owned(),
        payload: bytes.to_vec(),
        signatures: vec![bytes.to_vec()],
        certificates: vec![bytes.to_vec()],
        ..Bundle::default()
    };
    statement(&bundle);
    assert_ne!(signature::check(&bundle, None).state, FileSignatureState::Verified);
});
