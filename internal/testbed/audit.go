package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"
)

// Mark is a position in an audit log. Requests are counted from a mark.
type Mark int64

// markOf returns the end of the last complete line. The server may be writing the next one.
func markOf(path string) (Mark, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return Mark(bytes.LastIndexByte(text, '\n') + 1), err
}

// linesSince calls read with each complete line after the mark.
func linesSince(path string, since Mark, read func([]byte) error) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if _, err := file.Seek(int64(since), io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return nil
		}
		if err := read(line); err != nil {
			return err
		}
		text = rest
	}
}

// AuditEntry is a line of Vault's audit log. Vault hashes secrets in it, but neither path nor operation.
type AuditEntry struct {
	Time time.Time
	// Type is "request" or "response".
	Type string
	// Operation is Vault's: read, update (POST and PUT), list, delete …
	Operation string
	// Path has no leading slash: database/creds/orders.
	Path string
	// Error is set on failed responses.
	Error string
	// DisplayName of the client: kubernetes-<namespace>-<ServiceAccount>.
	DisplayName string
	// Accessor of the client's token, hashed as by AuditHash.
	Accessor string
}

// Mark returns the current end of Vault's audit log.
func (v *Vault) Mark() (Mark, error) { return markOf(v.auditPath()) }

// Audit returns the entries since the mark; 0 is the start of the log.
func (v *Vault) Audit(since Mark) ([]AuditEntry, error) {
	var entries []AuditEntry
	err := linesSince(v.auditPath(), since, func(line []byte) error {
		var raw struct {
			Time  time.Time `json:"time"`
			Type  string    `json:"type"`
			Error string    `json:"error"`
			Auth  struct {
				DisplayName string `json:"display_name"`
				Accessor    string
			} `json:"auth"`
			Request struct{ Operation, Path string } `json:"request"`
		}
		if err := json.Unmarshal(line, &raw); err != nil {
			return err
		}
		entries = append(entries, AuditEntry{
			Time: raw.Time, Type: raw.Type, Error: raw.Error,
			DisplayName: raw.Auth.DisplayName, Accessor: raw.Auth.Accessor,
			Operation: raw.Request.Operation, Path: raw.Request.Path,
		})
		return nil
	})
	return entries, err
}

// Requests returns the requests since the mark whose "operation path" matches the regular expression, such as `^read
// database/creds/`. It includes the testbed's own requests.
func (v *Vault) Requests(since Mark, pattern string) ([]AuditEntry, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	entries, err := v.Audit(since)
	var found []AuditEntry
	for _, e := range entries {
		if e.Type == "request" && match.MatchString(e.Operation+" "+e.Path) {
			found = append(found, e)
		}
	}
	return found, err
}

// AuditHash returns a value, such as an accessor, as hashed in the audit log.
func (v *Vault) AuditHash(ctx context.Context, value string) (string, error) {
	return v.Root.Sys().AuditHashWithContext(ctx, "file", value)
}

// APIRequest is a completed request in kube-apiserver's audit log.
type APIRequest struct {
	Time        time.Time
	User        string
	Verb        string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Code        int
	// DryRun requests store nothing.
	DryRun bool
}

// Mark returns the current end of the API server's audit log.
func (c *ControlPlane) Mark() (Mark, error) { return markOf(c.auditPath()) }

// Requests returns the completed requests since the mark for which match returns true. The API server logs a request
// just after its response, so poll for an exact count.
func (c *ControlPlane) Requests(since Mark, match func(APIRequest) bool) ([]APIRequest, error) {
	var found []APIRequest
	err := linesSince(c.auditPath(), since, func(line []byte) error {
		var raw struct {
			StageTimestamp time.Time
			RequestURI     string
			Verb           string
			User           struct{ Username string }
			ObjectRef      struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(line, &raw); err != nil {
			return err
		}
		r := APIRequest{
			Time: raw.StageTimestamp, User: raw.User.Username, Verb: raw.Verb,
			Resource: raw.ObjectRef.Resource, Subresource: raw.ObjectRef.Subresource,
			Namespace: raw.ObjectRef.Namespace, Name: raw.ObjectRef.Name, Code: raw.ResponseStatus.Code,
			DryRun: strings.Contains(raw.RequestURI, "dryRun=All"),
		}
		if match(r) {
			found = append(found, r)
		}
		return nil
	})
	return found, err
}
