package vault

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// validity is how long a credential is valid.
type validity struct {
	// from is when it became valid; zero: unknown.
	from  time.Time
	until time.Time
}

// expiryFields contain the expiry in Unix seconds: of the pki engine, and of access tokens of the gcp engine.
var expiryFields = []string{"expiration", "expires_at_seconds"}

// findValidity looks for an expiry in the fields: as a number, else in a certificate or a JWT.
func findValidity(fields map[string]json.RawMessage) (validity, bool) {
	inside, found := certificateValidity(fields["certificate"])
	if !found {
		inside, found = sshValidity(fields["signed_key"])
	}
	if !found {
		inside, found = jwtValidity(fields["token"])
	}
	for _, field := range expiryFields {
		if until, ok := unixTime(fields[field]); ok {
			return validity{from: inside.from, until: until}, true
		}
	}
	return inside, found
}

// maxUnix is the last second that a certificate or a timestamp in RFC 3339 can express: the end of the year 9999.
const maxUnix = 253402300799

// unixTime reads a time in Unix seconds.
func unixTime(raw json.RawMessage) (time.Time, bool) {
	var s float64
	if isNull(raw) || json.Unmarshal(raw, &s) != nil || !(s > 0 && s <= maxUnix) {
		return time.Time{}, false
	}
	return time.Unix(int64(s), 0), true
}

// certificateValidity reads the first certificate of a PEM bundle.
func certificateValidity(raw json.RawMessage) (validity, bool) {
	var text string
	if readString(raw, &text) != nil {
		return validity{}, false
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return validity{}, false
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return validity{}, false
	}
	return validity{from: certificate.NotBefore, until: certificate.NotAfter}, true
}

// sshValidity reads an SSH certificate in the format of authorized_keys.
func sshValidity(raw json.RawMessage) (validity, bool) {
	var text string
	if readString(raw, &text) != nil {
		return validity{}, false
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return validity{}, false
	}
	certificate, ok := key.(*ssh.Certificate)
	// A certificate may be valid forever (ssh.CertTimeInfinity).
	if !ok || certificate.ValidBefore > maxUnix {
		return validity{}, false
	}
	v := validity{until: time.Unix(int64(certificate.ValidBefore), 0)}
	if certificate.ValidAfter > 0 && certificate.ValidAfter <= maxUnix {
		v.from = time.Unix(int64(certificate.ValidAfter), 0)
	}
	return v, true
}

// jwtValidity reads the claims of a JWT. Its signature is not verified: nothing is permitted because of it.
func jwtValidity(raw json.RawMessage) (validity, bool) {
	var text string
	if readString(raw, &text) != nil {
		return validity{}, false
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return validity{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return validity{}, false
	}
	claims := object(payload)
	until, ok := unixTime(claims["exp"])
	if !ok {
		return validity{}, false
	}
	from, ok := unixTime(claims["iat"])
	if !ok {
		from, _ = unixTime(claims["nbf"])
	}
	return validity{from: from, until: until}, true
}
