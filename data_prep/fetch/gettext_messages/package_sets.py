"""Sets of packages whose messages are read: each is chosen on Debian 12 by what its packages add for their bytes.

*windows*, if none are named: programs that are translated into many languages, chosen among 380 by distinct messages of
three words and more in Breton, Welsh, Scottish Gaelic, Occitan, Irish and Basque. 150 MB in all, a seventh of it Inkscape,
which has 3,000 messages in Breton.
*everyday*: what people say and not what programs do: tales and talk of Wesnoth's campaigns, families, money, places, games.
Chosen among 42 by the same in eight languages (de, fr, es, ru, ja, tr, ar, hi). 210 MB in all.
"""

from __future__ import annotations

_WINDOWS = """
GNOME     aisleriot baobab brasero-common dconf-editor deja-dup eog epiphany-browser-data evince-common evolution-common
          evolution-data-server-common file-roller gconf2-common gdm3 gedit-common gnome-calculator gnome-commander-data
          gnome-control-center-data gnome-dictionary gnome-disk-utility gnome-maps gnome-screenshot gnome-session-common
          gnome-settings-daemon-common gnome-shell-common gnome-software-common gnome-system-monitor gnome-terminal-data
          gnome-user-share gnumeric-common gvfs-common libglib2.0-data libgtk-3-common libgtk2.0-common libgweather-4-common
          nautilus-data network-manager-gnome orca rhythmbox-data seahorse shotwell-common sound-juicer totem-common
MATE      caja-common engrampa-common eom-common marco-common mate-control-center-common mate-desktop-common
          mate-panel-common pluma-common
Others    audacity-data cinnamon-l10n filezilla-common gftp-common gimp-data homebank-data inkscape iso-codes kio krita-l10n
          ktorrent-data libkf5kdelibs4support-data libkf5xmlgui-data meld pidgin-data poedit-common shared-mime-info
          sylpheed-i18n synaptic system-config-printer-common tar thunar-data vlc-l10n wget xfce4-settings
"""
_EVERYDAY = """
Wesnoth   wesnoth-1.16-did wesnoth-1.16-dm wesnoth-1.16-dw wesnoth-1.16-ei wesnoth-1.16-httt wesnoth-1.16-l
          wesnoth-1.16-low wesnoth-1.16-nr wesnoth-1.16-sof wesnoth-1.16-sota wesnoth-1.16-sotbe wesnoth-1.16-thot
          wesnoth-1.16-trow wesnoth-1.16-tsg wesnoth-1.16-ttb wesnoth-1.16-utbs
Games     aisleriot freeciv-data gbrainy minetest-data tuxmath-data tuxpaint-data
Others    gnome-maps gnucash-common gramps iso-codes kgeography-data kturtle libgweather-4-common step
"""


def _names(table: str) -> tuple[str, ...]:
    return tuple(name for line in table.splitlines() for name in line[10:].split())


DEFAULT_SET = "windows"
PACKAGE_SETS = {DEFAULT_SET: _names(_WINDOWS), "everyday": _names(_EVERYDAY)}
"""What `--packages` may name beside packages."""
