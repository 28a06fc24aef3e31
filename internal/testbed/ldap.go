package testbed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/go-ldap/ldap/v3"
)

// LDAPOptions are all optional.
type LDAPOptions struct {
	// Port to listen on; a free port if 0.
	Port int
}

// LDAP is an OpenLDAP server (slapd) with an empty directory below BaseDN.
type LDAP struct {
	*daemon
	// Address is an URL such as ldap://127.0.0.1:20389.
	Address string
	// BaseDN is the suffix of all entries. Users are below ou=people, groups below ou=groups.
	BaseDN string
	// BindDN and Password are those of the administrator, who may do everything.
	BindDN, Password string
}

// StartLDAP creates a directory in a temporary directory and waits until it accepts logins. As root it runs the server
// as user `openldap`.
func StartLDAP(ctx context.Context, opts LDAPOptions) (*LDAP, error) {
	server, err := program("slapd", "slapd")
	if err != nil {
		return nil, err
	}
	d, err := newDaemon("ldap", "openldap")
	if err != nil {
		return nil, err
	}
	const base = "dc=testbed,dc=example"
	l := &LDAP{daemon: d, BaseDN: base, BindDN: "cn=admin," + base, Password: rand.Text()}
	if err := l.start(ctx, server, opts); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *LDAP) start(ctx context.Context, server string, opts LDAPOptions) error {
	port := opts.Port
	if port == 0 {
		var err error
		if port, err = FreePort(); err != nil {
			return err
		}
	}
	l.Address = "ldap://" + loopback(port)
	data, config := filepath.Join(l.home, "data"), filepath.Join(l.home, "slapd.conf")
	text := fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
threads 2
database mdb
maxsize 16777216
dbnosync
suffix %q
rootdn %q
rootpw %s
directory %q
access to attrs=userPassword by self write by anonymous auth
access to * by users read by anonymous auth
`, l.BaseDN, l.BindDN, l.Password, data)
	if err := errors.Join(giveDir(data, l.owner), giveFile(config, text, l.owner)); err != nil {
		return err
	}
	// With -d it stays in the foreground; 0 logs nothing.
	l.prepare(server, "-d", "0", "-h", l.Address, "-f", config)
	if err := l.process.start(); err != nil {
		return err
	}
	if err := l.process.await(ctx, func(context.Context) error { return l.Login(l.BindDN, l.Password) }); err != nil {
		return err
	}
	return errors.Join(
		l.Add(l.BaseDN, map[string][]string{"objectClass": {"dcObject", "organization"}, "o": {"testbed"},
			"dc": {"testbed"}}),
		l.Add("ou=people,"+l.BaseDN, map[string][]string{"objectClass": {"organizationalUnit"}, "ou": {"people"}}),
		l.Add("ou=groups,"+l.BaseDN, map[string][]string{"objectClass": {"organizationalUnit"}, "ou": {"groups"}}),
	)
}

// UserDN is the name of a user's entry.
func (l *LDAP) UserDN(name string) string { return "cn=" + name + ",ou=people," + l.BaseDN }

// AddUser adds a user who can log in.
func (l *LDAP) AddUser(name, password string) error {
	return l.Add(l.UserDN(name), map[string][]string{
		"objectClass": {"inetOrgPerson"}, "cn": {name}, "sn": {name}, "uid": {name}, "userPassword": {password},
	})
}

// Add adds an entry as the administrator.
func (l *LDAP) Add(dn string, attributes map[string][]string) error {
	conn, err := l.connect(l.BindDN, l.Password)
	if err != nil {
		return err
	}
	request := ldap.NewAddRequest(dn, nil)
	for name, values := range attributes {
		request.Attribute(name, values)
	}
	return errors.Join(conn.Add(request), conn.Close())
}

// Login binds as an entry.
func (l *LDAP) Login(dn, password string) error {
	conn, err := l.connect(dn, password)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (l *LDAP) connect(dn, password string) (*ldap.Conn, error) {
	conn, err := ldap.DialURL(l.Address)
	if err != nil {
		return nil, err
	}
	if err := conn.Bind(dn, password); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
