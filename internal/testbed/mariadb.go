package testbed

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

// MariaDB is a server with one administrator.
type MariaDB struct {
	*daemon
	// Address is host:port.
	Address string

	admin, password string
	port            int
}

// StartMariaDB creates a database in a temporary directory and waits until it accepts logins. As root it runs the
// server as user `mysql`.
func StartMariaDB(ctx context.Context) (*MariaDB, error) {
	server, err := program("mariadbd", "mariadb-server")
	if err != nil {
		return nil, err
	}
	install, err := program("mariadb-install-db", "mariadb-server")
	if err != nil {
		return nil, err
	}
	d, err := newDaemon("mariadb", "mysql")
	if err != nil {
		return nil, err
	}
	m := &MariaDB{daemon: d, admin: "testbed", password: rand.Text()}
	if err := m.start(ctx, server, install); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *MariaDB) start(ctx context.Context, server, install string) error {
	port, err := FreePort()
	if err != nil {
		return err
	}
	m.port, m.Address = port, loopback(port)
	data := filepath.Join(m.home, "data")
	cmd := exec.CommandContext(ctx, install, "--no-defaults", "--datadir="+data, "--skip-test-db",
		"--auth-root-authentication-method=normal", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0")
	path := os.Getenv("PATH") + ":/usr/sbin:/usr/bin"
	cmd.Dir, cmd.Env = m.home, []string{"PATH=" + path, "HOME=" + m.home, "LC_ALL=C", "TMPDIR=" + m.home}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: m.owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
	}
	// The administrator's password is in a file, because other users can read command lines.
	setup := filepath.Join(m.home, "setup.sql")
	text := fmt.Sprintf("DROP USER IF EXISTS 'root'@'localhost';\n"+
		"CREATE USER '%s'@'%%' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO '%s'@'%%' WITH GRANT OPTION;\n",
		m.admin, m.password, m.admin)
	if err := giveFile(setup, text, m.owner); err != nil {
		return err
	}
	defer func() { _ = os.Remove(setup) }()
	m.prepare(server, "--no-defaults", "--datadir="+data, "--init-file="+setup, "--port="+strconv.Itoa(port),
		"--bind-address=127.0.0.1", "--socket="+filepath.Join(m.home, "s"), "--pid-file="+filepath.Join(m.home, "pid"),
		"--skip-name-resolve", "--performance-schema=OFF", "--innodb-buffer-pool-size=16M",
		// Durability is not needed.
		"--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=2", "--skip-log-bin")
	if err := m.process.start(); err != nil {
		return err
	}
	return m.process.await(ctx, func(ctx context.Context) error { return m.Login(ctx, m.admin, m.password) })
}

// Administrator is who may create users.
func (m *MariaDB) Administrator() (name, password string) { return m.admin, m.password }

// Login connects as the user.
func (m *MariaDB) Login(ctx context.Context, name, password string) error {
	db, err := m.open(name, password)
	if err != nil {
		return err
	}
	return errors.Join(db.PingContext(ctx), db.Close())
}

// Exec runs a statement as the administrator.
func (m *MariaDB) Exec(ctx context.Context, statement string) error {
	db, err := m.open(m.admin, m.password)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement)
	return errors.Join(err, db.Close())
}

func (m *MariaDB) open(name, password string) (*sql.DB, error) {
	config := mysql.NewConfig()
	config.User, config.Passwd, config.Net, config.Addr = name, password, "tcp", m.Address
	config.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}
