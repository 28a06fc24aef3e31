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

// expiryFields contain the expiry: in Unix seconds in responses of the pki engine and in access tokens of the gcp
// engine, as RFC 3339 in the formats of cloud providers.
var expiryFields = []string{"expiration", "expires_at_seconds"}

// jwtFields may contain a JWT: that of identity/oidc/token, and the names of OAuth 2.0 and OpenID Connect.
var jwtFields = []string{"token", "access_token", "id_token"}

// findValidity looks for an expiry in the fields: as a time, else in a certificate or in JWTs.
func findValidity(fields map[string]json.RawMessage) (validity, bool) {
	inside, found := certificateValidity(fields["certificate"])
	if !found {
		inside, found = sshValidity(fields["signed_key"])
	}
	if !found {
		inside, found = firstJWTValidity(fields)
	}
	for _, field := range expiryFields {
		until, ok := unixTime(fields[field])
		if !ok {
			until, ok = textTime(fields[field])
		}
		if ok {
			return validity{from: inside.from, until: until}, true
		}
	}
	return inside, found
}

// firstJWTValidity is that of the JWT that expires first: the response is replaced as a whole.
func firstJWTValidity(fields map[string]json.RawMessage) (first validity, found bool) {
	for _, field := range jwtFields {
		v, ok := jwtValidity(fields[field])
		if ok && (!found || v.until.Before(first.until)) {
			first, found = v, true
		}
	}
	return first, found
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

// textTime reads a time in RFC 3339. One before 1970 is no expiry: some servers send the year 1 for "never".
func textTime(raw json.RawMessage) (time.Time, bool) {
	var text string
	if readString(raw, &text) != nil {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, text)
	return at, err == nil && at.Unix() > 0
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
