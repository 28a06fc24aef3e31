package vault

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxTextRunes is how much of a server's text is shown.
	maxTextRunes = 512
	// maxScrubBytes is how much of it is processed.
	maxScrubBytes = 16 << 10
)

// secretName matches the name of a variable, a field or a header whose value is secret, and what separates both:
// DB_PASSWORD=, "secret_key": and X-Vault-Token: do. Words after "token" name a setting: token_type.
const secretName = `(?i)\b([a-z0-9_.-]*` +
	`(?:(?:password|passwd|passphrase|pwd|secret)(?:[0-9]+|[_-][a-z0-9_-]*|(?-i:[A-Z])[a-z0-9_-]*)?|` +
	`token|jwt|api_?key|access_?key|private_?key)\\?["']?\s*[=:]\s*)`

// quotedRest is what a shell appends to a quoted value: PASSWORD='a b'c.
const quotedRest = `[^\s"',;:)}\]\\]*`

// statementWord matches the words before a quoted value in a statement.
const statementWord = `(?i)\b((?:password|passwd|identified\s+by(?:\s+password)?|` +
	`identified\s+with\s+\S+\s+(?:by|as))\b`

// secretPatterns find secrets in an error text: an engine may quote the statement or the connection string that failed.
var secretPatterns = []struct {
	find    *regexp.Regexp
	replace string
}{
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), "[key]"},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{4,}(\.[A-Za-z0-9_-]*){0,4}`), "[token]"},
	{regexp.MustCompile(`\bhv[sbr]\.[A-Za-z0-9._-]+`), "[token]"},
	{regexp.MustCompile(`\b[sbr]\.[A-Za-z0-9_-]{16,}(\.[A-Za-z0-9]+)?`), "[token]"},
	{regexp.MustCompile(`(?i)\b(authorization["']?\s*[=:]\s*["']?(?:(?:bearer|basic|digest|negotiate)\s+)?)[^\s"',;]+`),
		"$1[secret]"},
	{regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}`), "$1[token]"},
	{regexp.MustCompile(secretName + `"(?:[^"\\]|""|\\.)*(?:"|$)` + quotedRest), `${1}"[secret]"`},
	// The same inside a quoted text: \"password\":\"x\".
	{regexp.MustCompile(secretName + `\\"(?:[^"\\]|\\\\(?:\\.|[^\\]))*(?:\\"|$)`), `${1}\"[secret]\"`},
	{regexp.MustCompile(secretName + `(?:[a-z]{0,2}|\$)'(?:[^'\\]|''|'\\''|\\.)*(?:'|$)` + quotedRest),
		"${1}'[secret]'"},
	{regexp.MustCompile(secretName + `\$\$.*?(?:\$\$|$)`), "${1}[secret]"},
	{regexp.MustCompile(secretName + `(?:[^\s"'\\]|\\[^"])(?:[^\s\\]|\\.?)*`), "${1}[secret]"},
	{regexp.MustCompile(statementWord + `\s*)(?:[a-z]{0,2}'(?:[^'\\]|''|\\.)*(?:'|$)|\$\$.*?(?:\$\$|$))`),
		"$1[secret]"},
	// A quote right behind the word ends a quoted name.
	{regexp.MustCompile(statementWord + `\s+)"(?:[^"\\]|""|\\.)*(?:"|$)`), "$1[secret]"},
	// A password may contain slashes and @.
	{regexp.MustCompile(`://([^\s/@:]*):\S*@`), "://$1:[secret]@"},
}

// prose are words of Vault's JWT method before its reason for a refusal, which look like the name of a secret.
var prose = strings.NewReplacer("error validating token: ", "error validating token, ",
	"invalid token: ", "invalid token, ", "malformed jwt: ", "malformed jwt, ")

// scrub makes a server's text safe to show: one bounded line without secrets. It removes the given secrets and
// everything that looks like a token, a JWT, a key or a password.
func scrub(text string, secrets ...string) string {
	if len(text) > maxScrubBytes {
		// The last word may be half a secret that no pattern matches.
		text = text[:maxScrubBytes]
		if end := strings.LastIndexFunc(text, unicode.IsSpace); end > 0 {
			text = text[:end]
		} else {
			text = ""
		}
	}
	for _, secret := range secrets {
		if len(secret) >= 4 {
			text = strings.ReplaceAll(text, secret, "[token]")
		}
	}
	text = prose.Replace(oneLine(text))
	for _, pattern := range secretPatterns {
		text = pattern.find.ReplaceAllString(text, pattern.replace)
	}
	return cut(text, maxTextRunes)
}

// oneLine replaces every run of white space and control characters with one space.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.IsSpace(r) || r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

func cut(text string, runes int) string {
	if utf8.RuneCountInString(text) <= runes {
		return text
	}
	return string([]rune(text)[:runes]) + "…"
}
